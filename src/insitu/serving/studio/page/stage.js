// The picture with its places, drawn on by mouse, finger or pen. Boxes are shares of its sides; a
// mask is a canvas of the picture's size, painted where the place is.

const { Konva } = window;
const HANDLES = ["top-left", "top-right", "bottom-left", "bottom-right",
  "top-center", "bottom-center", "middle-left", "middle-right"];
const SMALLEST = 0.01;

export class Stage {
  // `drawn(box)`, `moved(id, box)`, `chosen(id)`, `stroked(id)` tell what was done.
  constructor(container, told) {
    this.container = container;
    this.told = told;
    this.tool = "box";
    this.brush = 0.08;
    this.size = null;
    this.stage = new Konva.Stage({ container, width: 1, height: 1 });
    this.pictures = new Konva.Layer({ listening: false });
    this.masks = new Konva.Layer({ listening: false });
    this.boxes = new Konva.Layer();
    this.stage.add(this.pictures, this.masks, this.boxes);
    this.transformer = new Konva.Transformer({
      rotateEnabled: false, keepRatio: false, enabledAnchors: HANDLES, ignoreStroke: true,
      anchorSize: matchMedia("(pointer: coarse)").matches ? 22 : 11, anchorCornerRadius: 3,
      boundBoxFunc: (before, after) => (this.within(after) ? after : before),
    });
    this.stage.on("pointerdown", (event) => this.begin(event));
    this.stage.on("pointermove", () => this.go());
    window.addEventListener("pointerup", () => this.end());
    new ResizeObserver(() => this.fit()).observe(container.parentElement);
  }

  show(image, width, height) {
    this.size = { width, height };
    this.image = image;
    this.fit();
  }

  // As large as there is room for, also where the picture is small.
  fit() {
    if (!this.size) return;
    const room = this.container.parentElement.clientWidth;
    const most = Math.max(260, window.innerHeight * 0.68);
    const scale = Math.min(room / this.size.width, most / this.size.height);
    this.stage.size({ width: this.size.width * scale, height: this.size.height * scale });
    this.pictures.destroyChildren();
    if (this.image) {
      this.pictures.imageSmoothingEnabled(scale < 2);
      this.pictures.add(new Konva.Image({ image: this.image, ...this.stage.size() }));
    } else {
      this.pictures.add(new Konva.Rect({ fill: "#fff", ...this.stage.size() }));
    }
    this.draw(this.places || [], this.chosen);
  }

  draw(places, chosen) {
    this.places = places;
    this.chosen = chosen;
    this.boxes.destroyChildren();
    this.masks.destroyChildren();
    if (!this.size) return;
    const { width, height } = this.stage.size();
    for (const place of places) {
      if (place.mask) {
        this.masks.add(new Konva.Image({ image: place.mask, width, height, opacity: 0.55 }));
        continue;
      }
      const [x0, y0, x1, y1] = place.box;
      const box = new Konva.Rect({
        id: place.id, x: x0 * width, y: y0 * height, width: (x1 - x0) * width,
        height: (y1 - y0) * height, stroke: place.colour, strokeWidth: place.id === chosen ? 3 : 2,
        strokeScaleEnabled: false, fill: `${place.colour}22`, draggable: this.tool === "box",
        dragBoundFunc: (at) => ({
          x: Math.min(Math.max(at.x, 0), width - box.width()),
          y: Math.min(Math.max(at.y, 0), height - box.height()),
        }),
      });
      box.on("dragend transformend", () => this.settle(box));
      const name = new Konva.Label({ x: x0 * width, y: y0 * height, listening: false });
      name.add(new Konva.Tag({ fill: place.colour }));
      name.add(new Konva.Text({ text: place.name, padding: 3, fontSize: 12, fill: "#fff" }));
      this.boxes.add(box, name);
      if (place.id === chosen && this.tool === "box") {
        this.boxes.add(this.transformer);
        this.transformer.nodes([box]);
      }
    }
    this.boxes.batchDraw();
    this.masks.batchDraw();
  }

  settle(box) {
    const { width, height } = this.stage.size();
    const [x, y] = [box.x() / width, box.y() / height];
    const [w, h] = [(box.width() * box.scaleX()) / width, (box.height() * box.scaleY()) / height];
    this.told.moved(box.id(), [x, y, x + w, y + h].map((v) => Math.min(Math.max(v, 0), 1)));
  }

  within(box) {
    const { width, height } = this.stage.size();
    return box.x >= -1 && box.y >= -1 && box.x + box.width <= width + 1
      && box.y + box.height <= height + 1 && box.width > 4 && box.height > 4;
  }

  at() {
    const { x, y } = this.stage.getRelativePointerPosition() || { x: 0, y: 0 };
    const { width, height } = this.stage.size();
    return [Math.min(Math.max(x / width, 0), 1), Math.min(Math.max(y / height, 0), 1)];
  }

  begin(event) {
    if (!this.size) return;
    this.stage.setPointersPositions(event.evt);
    if (this.tool === "box") {
      const id = event.target.id && event.target.id();
      if (id) { this.told.chosen(id); return; }
      if (event.target.getParent() === this.transformer) return;
      this.from = this.at();
      this.band = new Konva.Rect({ stroke: "#3657c9", dash: [5, 4], strokeWidth: 2 });
      this.boxes.add(this.band);
    } else {
      this.place = this.told.stroke(this.tool);
      this.last = this.at();
      if (this.place) this.go();
    }
  }

  go() {
    if (this.from) {
      const { width, height } = this.stage.size();
      const [[x0, y0], [x1, y1]] = [this.from, this.at()];
      this.band.setAttrs({
        x: Math.min(x0, x1) * width, y: Math.min(y0, y1) * height,
        width: Math.abs(x1 - x0) * width, height: Math.abs(y1 - y0) * height,
      });
    } else if (this.place) {
      const pen = this.place.mask.getContext("2d");
      const now = this.at();
      pen.globalCompositeOperation = this.tool === "erase" ? "destination-out" : "source-over";
      pen.strokeStyle = this.place.colour;
      pen.lineWidth = Math.max(1, this.brush * Math.min(this.size.width, this.size.height));
      pen.lineCap = pen.lineJoin = "round";
      pen.beginPath();
      pen.moveTo(this.last[0] * this.size.width, this.last[1] * this.size.height);
      pen.lineTo(now[0] * this.size.width + 0.01, now[1] * this.size.height);
      pen.stroke();
      this.last = now;
      this.masks.batchDraw();
    }
  }

  end() {
    if (this.from) {
      const [[x0, y0], [x1, y1]] = [this.from, this.at()];
      this.from = null;
      this.band.destroy();
      const box = [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
      if (box[2] - box[0] > SMALLEST && box[3] - box[1] > SMALLEST) this.told.drawn(box);
    } else if (this.place) {
      const { id } = this.place;
      this.place = null;
      this.told.stroked(id);
    }
  }
}
