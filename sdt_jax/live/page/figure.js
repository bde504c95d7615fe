// Draws poses on a canvas, with the shapes that the server sends.

const HEIGHT = 720; // of the picture, in pixels of the poses
const WIDTH = 860;
const NECK = 0.45; // from the top, as a fraction of the height

export class Figure {
  constructor(canvas, shapes) {
    this.canvas = canvas;
    this.shapes = shapes;
    this.pose = null;
    new ResizeObserver(() => this.draw(this.pose)).observe(canvas);
  }

  // pose: x of all joints, then y, in pixels relative to the neck.
  draw(pose) {
    this.pose = pose;
    const { canvas } = this;
    canvas.width = canvas.clientWidth * devicePixelRatio;
    canvas.height = canvas.clientHeight * devicePixelRatio;
    if (!pose) return;
    const pen = canvas.getContext("2d");
    const scale = Math.min(canvas.height / HEIGHT, canvas.width / WIDTH);
    pen.translate(canvas.width / 2, canvas.height * NECK);
    pen.scale(scale, scale);
    pen.lineCap = pen.lineJoin = "round";
    for (const shape of this.shapes) drawShape(pen, shape, pose);
  }
}

function drawShape(pen, { kind, color, width, points }, pose) {
  const places = points.map((sum) => place(sum, pose));
  pen.strokeStyle = pen.fillStyle = `rgb(${color})`;
  pen.lineWidth = width;
  if (kind === "dots") {
    for (const [x, y] of places) {
      pen.beginPath();
      pen.arc(x, y, width, 0, 2 * Math.PI);
      pen.fill();
    }
    return;
  }
  pen.beginPath();
  for (const [x, y] of places) pen.lineTo(x, y);
  if (kind !== "line") pen.closePath();
  if (kind === "fill") pen.fill();
  else pen.stroke();
}

// A point is a weighted sum of joints; the neck is the origin.
function place(sum, pose) {
  let [x, y] = [0, 0];
  for (const [joint, weight] of sum) {
    x += weight * pose[joint];
    y += weight * pose[joint + pose.length / 2];
  }
  return [x, y];
}
