"""Reports: pages of tables, curves and pictures, each in one HTML file that loads nothing."""

from wellposed.report.chart import Chart as Chart
from wellposed.report.chart import Point as Point
from wellposed.report.page import Page as Page
from wellposed.report.page import as_html as as_html
from wellposed.report.page import write_page as write_page
from wellposed.report.parts import Facts as Facts
from wellposed.report.parts import Figure as Figure
from wellposed.report.parts import Group as Group
from wellposed.report.parts import Link as Link
from wellposed.report.parts import Table as Table
from wellposed.report.pictures import Album as Album
from wellposed.report.pictures import gallery as gallery
from wellposed.report.reconstructed import reconstruction_page as reconstruction_page
from wellposed.report.versions import versions as versions
