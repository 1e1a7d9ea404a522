"""
X
=

"""
print(1)
