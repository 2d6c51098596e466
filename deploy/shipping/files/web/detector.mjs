// From an image to boxes in its pixels, as edgedistill does it: the same resampling as Pillow's, the same scaling, the same graph.
import * as ort from "./ort.wasm.min.mjs";

const AGAIN = "write the page again with edgedistill package --web";
const BITS = 2 ** 22;

function triangle(x) {
  const far = Math.abs(x);
  return far < 1 ? 1 - far : 0;
}

function cubic(x) {
  const a = -0.5;
  const far = Math.abs(x);
  if (far < 1) return ((a + 2) * far - (a + 3)) * far * far + 1;
  return far < 2 ? (((far - 5) * far + 8) * far - 4) * a : 0;
}

const FILTERS = { bilinear: [triangle, 1], bicubic: [cubic, 2] };

// Python's round: halves to the even neighbor.
function round(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

// For each new position, where its window starts and the weights in it, in units of 1 / BITS.
function windows(size, wanted, [filter, reach]) {
  const scale = size / wanted;
  const wide = Math.max(scale, 1);
  return Array.from({ length: wanted }, (_, place) => {
    const center = (place + 0.5) * scale;
    const start = Math.max(Math.trunc(center - reach * wide + 0.5), 0);
    const end = Math.min(Math.trunc(center + reach * wide + 0.5), size);
    const own = [];
    for (let x = start; x < end; x += 1) own.push(filter((x - center + 0.5) / wide));
    const sum = own.reduce((total, one) => total + one, 0);
    return [start, own.map((one) => Math.trunc((one / sum) * BITS + (one < 0 ? -0.5 : 0.5)))];
  });
}

function clipped(sum) {
  return Math.min(Math.max(Math.floor(sum / BITS), 0), 255);
}

function across(pixels, width, height, wanted, filter) {
  const made = new Uint8ClampedArray(wanted * height * 4);
  windows(width, wanted, filter).forEach(([start, weights], x) => {
    for (let y = 0; y < height; y += 1) {
      for (let channel = 0; channel < 3; channel += 1) {
        let sum = BITS / 2;
        for (let k = 0; k < weights.length; k += 1) sum += pixels[(y * width + start + k) * 4 + channel] * weights[k];
        made[(y * wanted + x) * 4 + channel] = clipped(sum);
      }
    }
  });
  return made;
}

function down(pixels, width, height, wanted, filter) {
  const made = new Uint8ClampedArray(width * wanted * 4);
  windows(height, wanted, filter).forEach(([start, weights], y) => {
    for (let x = 0; x < width; x += 1) {
      for (let channel = 0; channel < 3; channel += 1) {
        let sum = BITS / 2;
        for (let k = 0; k < weights.length; k += 1) sum += pixels[((start + k) * width + x) * 4 + channel] * weights[k];
        made[(y * width + x) * 4 + channel] = clipped(sum);
      }
    }
  });
  return made;
}

// Positions summed up, as Pillow does: (k + 0.5) * step rounds to another pixel now and then.
function picked(size, count) {
  const step = size / count;
  let position = step / 2;
  return Array.from({ length: count }, () => {
    const chosen = Math.trunc(position);
    position += step;
    return chosen;
  });
}

function nearest(pixels, width, height, wide, high) {
  const made = new Uint8ClampedArray(wide * high * 4);
  const columns = picked(width, wide);
  picked(height, high).forEach((row, y) => {
    columns.forEach((column, x) => {
      const from = (row * width + column) * 4;
      made.set(pixels.subarray(from, from + 4), (y * wide + x) * 4);
    });
  });
  return made;
}

export function resized(pixels, width, height, wide, high, interpolation) {
  if (interpolation === "nearest") return nearest(pixels, width, height, wide, high);
  const filter = FILTERS[interpolation];
  const rows = wide === width ? pixels : across(pixels, width, height, wide, filter);
  return high === height ? rows : down(rows, wide, height, high, filter);
}

// Where an image lies in the network's input: its size there, and the corner that it starts at.
function placed(width, height, how) {
  if (how.resize === "stretch") return { wide: how.width, high: how.height, left: 0, top: 0 };
  const scale = Math.min(how.width / width, how.height / height);
  const wide = Math.max(round(width * scale), 1);
  const high = Math.max(round(height * scale), 1);
  if (how.resize === "shortest_edge") return { wide, high, left: 0, top: 0 };
  return { wide, high, left: Math.floor((how.width - wide) / 2), top: Math.floor((how.height - high) / 2) };
}

function prepared(image, how) {
  const place = placed(image.width, image.height, how);
  const pixels = resized(image.data, image.width, image.height, place.wide, place.high, how.interpolation);
  const area = how.width * how.height;
  const tensor = new Float32Array(3 * area);
  for (let channel = 0; channel < 3; channel += 1) {
    const source = how.color === "bgr" ? 2 - channel : channel;
    const factor = Math.fround(1 / (255 * how.std[channel]));
    const shift = Math.fround(how.mean[channel] / how.std[channel]);
    const values = tensor.subarray(channel * area, (channel + 1) * area).fill(Math.fround(Math.fround(how.pad_value * factor) - shift));
    for (let y = 0; y < place.high; y += 1) {
      for (let x = 0; x < place.wide; x += 1) {
        const value = Math.fround(pixels[(y * place.wide + x) * 4 + source] * factor);
        values[(y + place.top) * how.width + x + place.left] = Math.fround(value - shift);
      }
    }
  }
  return [tensor, place];
}

function clip(value, most) {
  return Math.min(Math.max(value, 0), most);
}

// The graph's bytes, as they were packaged: what is cut or exchanged is not run. Browsers compute hashes over HTTPS and on localhost only.
async function graphOf(name, { bytes, sha256 }) {
  const answer = await fetch(name).catch(() => null);
  if (!answer?.ok) throw new Error(`${name} is missing on the server; ${AGAIN}`);
  const content = await answer.arrayBuffer();
  const digest = globalThis.crypto?.subtle ? new Uint8Array(await crypto.subtle.digest("SHA-256", content)) : null;
  const hex = digest && Array.from(digest, (one) => one.toString(16).padStart(2, "0")).join("");
  if (content.byteLength !== bytes || (hex && hex !== sha256)) throw new Error(`${name} is damaged, or a different network's; ${AGAIN}`);
  return new Uint8Array(content);
}

export class Detector {
  constructor(session, contract) {
    this.session = session;
    this.contract = contract;
  }

  static async open(contract, name) {
    const graph = await graphOf(name, contract.model);
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
    const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] }).catch((error) => {
      throw new Error(`ONNX Runtime Web cannot start or open ${name} (${String(error?.message ?? error).split("\n")[0].slice(0, 150)}); ${AGAIN}`);
    });
    return new Detector(session, contract);
  }

  // Objects in ImageData, the most certain first: label, name, score, box [x1, y1, x2, y2] in px of the image; and the milliseconds.
  async detect(image) {
    const how = this.contract.preprocessing;
    const start = performance.now();
    const [tensor, place] = prepared(image, how);
    const images = new ort.Tensor("float32", tensor, [1, 3, how.height, how.width]);
    const { boxes, scores, labels, converged } = await this.session.run({ images }, ["boxes", "scores", "labels", "converged"]);
    if (!converged.data[0]) throw new Error("the graph's NMS did not converge");
    const scale = [place.wide / image.width, place.high / image.height];
    const shift = [place.left, place.top];
    const most = [image.width, image.height];
    const objects = [];
    scores.data.forEach((score, row) => {
      if (score === 0) return;
      const label = Number(labels.data[row]);
      const corners = boxes.data.slice(row * 4, row * 4 + 4);
      if (![score, ...corners].every(Number.isFinite)) throw new Error("the graph's answer is not finite");
      if (!(label in this.contract.classes)) throw new Error(`the graph's label ${label} is not one of ${this.contract.classes.length} classes`);
      const box = Array.from(corners, (value, at) => clip((value - shift[at % 2]) / scale[at % 2], most[at % 2]));
      objects.push({ label, name: this.contract.classes[label], score, box });
    });
    return { objects, milliseconds: performance.now() - start };
  }

  // A picture as stored, without color management, but upright.
  async bitmapOf(blob) {
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" }).catch(() => null);
    if (!bitmap) throw new Error(`${blob.name ?? "the file"} is damaged, or not an image that this browser can show; choose a JPEG or PNG`);
    return bitmap;
  }

  // The pixels of a picture or video frame, upright, transparency over black.
  pixelsOf(source, width, height) {
    const most = this.contract.preprocessing.max_pixels;
    if (width * height > most) throw new Error(`the image has ${width} x ${height} px, allowed: ${most} px; choose a smaller one`);
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillRect(0, 0, width, height);
    context.drawImage(source, 0, 0);
    return context.getImageData(0, 0, width, height);
  }
}
