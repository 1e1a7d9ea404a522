"use strict";
(() => {
  const all = (root, selector) => [...root.querySelectorAll(selector)];
  const one = (root, selector) => root.querySelector(selector);
  const within = (value, low, high) => Math.min(Math.max(value, low), high);

  // Tables: a click on a header sorts its column, a second click the other way round.

  const shown = (row, column) => row.cells[column].textContent.trim();
  const number = (text) => (/^[-+]?\.?\d/.test(text) ? parseFloat(text) : NaN);
  const missing = (text) => text === "" || text === "-";

  function compare(a, b) {
    const [x, y] = [number(a), number(b)];
    if (!isNaN(x) && !isNaN(y) && x !== y) return x - y;
    return a.localeCompare(b, "en", { numeric: true });
  }

  function sort(table, column, sign) {
    const rows = [...table.tBodies[0].rows];
    rows.sort((p, q) => {
      const [a, b] = [shown(p, column), shown(q, column)];
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      return sign * compare(a, b);
    });
    table.tBodies[0].append(...rows);
  }

  function makeSortable(table) {
    const heads = all(table, "thead th");
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((each) => each.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        sort(table, column, up ? 1 : -1);
      });
    });
  }

  // Pictures: a canvas replaces each image and shows one slice in the window of values.

  class Picture {
    constructor(figure) {
      const facts = figure.dataset;
      this.title = facts.title;
      this.isMap = "map" in facts;
      [this.width, this.height] = [Number(facts.width), Number(facts.height)];
      [this.columns, this.count] = [Number(facts.columns), Number(facts.count)];
      this.image = one(figure, "img");
      this.canvas = document.createElement("canvas");
      [this.canvas.width, this.canvas.height] = [this.width, this.height];
      this.canvas.setAttribute("role", "img");
      this.canvas.setAttribute("aria-label", this.title);
      this.image.hidden = true;
      figure.classList.remove("sheet");
      this.image.after(this.canvas);
      this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    }

    draw(slice, levels) {
      const { width, height } = this;
      const k = Math.min(slice, this.count - 1);
      const [x, y] = [(k % this.columns) * width, Math.floor(k / this.columns) * height];
      this.pen.drawImage(this.image, x, y, width, height, 0, 0, width, height);
      if (this.isMap || levels === null) return;
      const pixels = this.pen.getImageData(0, 0, width, height);
      for (let i = 0; i < pixels.data.length; i += 4)
        for (let c = i; c < i + 3; c++) pixels.data[c] = levels[pixels.data[c]];
      this.pen.putImageData(pixels, 0, 0);
    }
  }

  const [STAGE, LENS] = [544, 128];

  class Viewer {
    constructor(root) {
      const facts = root.dataset;
      this.root = root;
      [this.low, this.high] = [Number(facts.low), Number(facts.high)];
      this.window = [Number(facts.from), Number(facts.to)];
      this.numbers = facts.slices.split(" ");
      this.pictures = all(root, "figure").map((figure) => new Picture(figure));
      this.stage = one(root, ".stage");
      this.place = [0.5, 0.5];
      const part = (name) => one(root, "." + name);
      const names = ["left", "right", "divider", "from", "to", "slice", "zoom"];
      this.control = Object.fromEntries(names.map((name) => [name, part(name)]));
      this.fill();
      this.listen();
      this.reset();
      one(root, ".tools").hidden = false;
    }

    fill() {
      const { left, right, from, to, slice } = this.control;
      for (const list of [left, right])
        this.pictures.forEach((picture, k) => list.add(new Option(picture.title, String(k))));
      for (const range of [from, to]) [range.min, range.max] = [this.low, this.high];
      slice.max = this.numbers.length - 1;
      one(this.root, ".depth").hidden = this.numbers.length < 2;
      const { width, height } = this.pictures[0];
      const enlarged = Math.max(1, Math.round(STAGE / Math.max(width, height)));
      [this.stage.width, this.stage.height] = [width * enlarged, height * enlarged];
      this.lenses = this.pictures.map((picture) => {
        const figure = document.createElement("figure");
        const canvas = document.createElement("canvas");
        const caption = document.createElement("figcaption");
        [canvas.width, canvas.height] = [LENS, LENS];
        caption.textContent = picture.title;
        figure.append(canvas, caption);
        one(this.root, ".lenses").append(figure);
        return canvas.getContext("2d");
      });
    }

    listen() {
      const { left, right, divider, from, to, slice, zoom } = this.control;
      for (const each of [left, right, divider]) each.addEventListener("input", () => this.show());
      zoom.addEventListener("input", () => this.show());
      slice.addEventListener("input", () => this.draw());
      const step = (this.high - this.low) / 255;
      from.addEventListener("input", () => {
        to.value = Math.max(Number(to.value), Number(from.value) + step);
        from.value = Math.min(Number(from.value), Number(to.value) - step);
        this.draw();
      });
      to.addEventListener("input", () => {
        from.value = Math.min(Number(from.value), Number(to.value) - step);
        to.value = Math.max(Number(to.value), Number(from.value) + step);
        this.draw();
      });
      one(this.root, ".reset").addEventListener("click", () => this.reset());
      for (const canvas of [this.stage, ...this.pictures.map((picture) => picture.canvas)]) {
        canvas.addEventListener("pointermove", (event) => this.point(canvas, event));
        canvas.addEventListener("pointerdown", (event) => this.point(canvas, event));
      }
      this.stage.addEventListener("keydown", (event) => this.key(event));
    }

    reset() {
      const { left, right, divider, from, to, slice, zoom } = this.control;
      const images = this.pictures.flatMap((picture, k) => (picture.isMap ? [] : [k]));
      left.value = String(images[Math.min(2, images.length - 1)] ?? 0);
      right.value = String(images[0] ?? 0);
      divider.value = 0.5;
      [from.value, to.value] = this.window;
      slice.value = Math.floor(this.numbers.length / 2);
      zoom.value = 8;
      this.place = [0.5, 0.5];
      this.draw();
    }

    point(canvas, event) {
      const box = canvas.getBoundingClientRect();
      const u = within((event.clientX - box.left) / box.width, 0, 1);
      const v = within((event.clientY - box.top) / box.height, 0, 1);
      this.place = [u, v];
      if (canvas === this.stage && event.buttons === 1) this.control.divider.value = u;
      this.show();
    }

    key(event) {
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const move = moves[event.key];
      if (!move) return;
      event.preventDefault();
      const { width, height } = this.pictures[0];
      const [u, v] = this.place;
      this.place = [within(u + move[0] / width, 0, 1), within(v + move[1] / height, 0, 1)];
      this.show();
    }

    levels() {
      const [from, to] = [Number(this.control.from.value), Number(this.control.to.value)];
      if (from <= this.low && to >= this.high) return null;
      const level = (k) => (this.low + (k / 255) * (this.high - this.low) - from) / (to - from);
      return Uint8ClampedArray.from({ length: 256 }, (_, k) => 255 * level(k));
    }

    draw() {
      const levels = this.levels();
      for (const picture of this.pictures) picture.draw(Number(this.control.slice.value), levels);
      this.show();
    }

    show() {
      this.tell();
      this.compare();
      this.magnify();
    }

    tell() {
      const write = (name, text) => (one(this.root, "." + name + "-value").textContent = text);
      const { from, to, slice, zoom } = this.control;
      write("from", Number(from.value).toPrecision(3));
      write("to", Number(to.value).toPrecision(3));
      write("slice", this.numbers[Number(slice.value)]);
      write("zoom", "× " + zoom.value);
    }

    get span() {
      return Math.max(this.stage.width, this.stage.height) / Number(this.control.zoom.value);
    }

    compare() {
      const { left, right, divider } = this.control;
      const pen = this.stage.getContext("2d");
      const { width, height } = this.stage;
      const cut = Math.round(Number(divider.value) * width);
      const [a, b] = [left, right].map((list) => this.pictures[Number(list.value)].canvas);
      pen.imageSmoothingEnabled = false;
      pen.clearRect(0, 0, width, height);
      pen.drawImage(a, 0, 0, width, height);
      const scale = b.width / width;
      if (cut < width)
        pen.drawImage(b, cut * scale, 0, b.width - cut * scale, b.height, cut, 0, width - cut, height);
      const line = Math.max(1, width / 300);
      pen.fillStyle = "#ffb000";
      pen.fillRect(cut - line / 2, 0, line, height);
      pen.strokeStyle = "#ffb000";
      pen.lineWidth = line;
      const [u, v] = this.place;
      pen.strokeRect(u * width - this.span / 2, v * height - this.span / 2, this.span, this.span);
    }

    magnify() {
      const [u, v] = this.place;
      this.pictures.forEach((picture, k) => {
        const { width, height, canvas } = picture;
        const span = (this.span * width) / this.stage.width;
        const pen = this.lenses[k];
        pen.imageSmoothingEnabled = false;
        pen.clearRect(0, 0, LENS, LENS);
        pen.drawImage(canvas, u * width - span / 2, v * height - span / 2, span, span, 0, 0, LENS, LENS);
      });
    }
  }

  async function start(root) {
    await Promise.all(all(root, "figure img").map((image) => image.decode()));
    new Viewer(root);
  }

  all(document, "table.sortable").forEach(makeSortable);
  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((each) => each.isIntersecting)) {
        near.unobserve(entry.target);
        start(entry.target);
      }
    },
    { rootMargin: "600px" },
  );
  all(document, ".viewer").filter((root) => one(root, "figure")).forEach((root) => near.observe(root));
})();
