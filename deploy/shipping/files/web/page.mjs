const part = (id) => document.getElementById(id);
const canvas = part("canvas");
const AGAIN = "write the page again with edgedistill package --web";
let shown = null;
let film = null; // the one that runs, or that the browser asks the user about

function say(text) {
  part("status").textContent = text;
}

// One line, whatever failed: ONNX Runtime's own messages may have many.
function failed(error) {
  say(`Failed: ${String(error?.message ?? error).split("\n")[0].slice(0, 300)}`);
}

function draw({ source, width, height, objects, milliseconds }) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.drawImage(source, 0, 0);
  const size = Math.max(12, Math.round(width / 60));
  context.font = `${size}px system-ui, sans-serif`;
  context.lineWidth = Math.max(2, width / 400);
  const kept = objects.filter((one) => one.score >= Number(part("least").value));
  for (const { label, name, score, box: [x1, y1, x2, y2] } of kept) {
    context.strokeStyle = context.fillStyle = `hsl(${(label * 137) % 360} 85% 40%)`;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    const text = `${name} ${score.toFixed(2)}`;
    const top = Math.max(y1 - size * 1.3, 0);
    context.fillRect(x1, top, context.measureText(text).width + 6, size * 1.3);
    context.fillStyle = "#fff";
    context.fillText(text, x1 + 3, top + size);
  }
  part("found").replaceChildren(...kept.map(({ name, score }) => Object.assign(document.createElement("li"), { textContent: `${name} ${score.toFixed(2)}` })));
  say(`${kept.length} objects, ${milliseconds.toFixed(1)} ms`);
}

async function look(detector, source, width, height, mine = null) {
  const found = await detector.detect(detector.pixelsOf(source, width, height));
  if (film !== mine) return found; // the camera was started or stopped in the meantime
  shown = { source, width, height, ...found };
  draw(shown);
  return found;
}

async function picture(detector, blob) {
  stop();
  const bitmap = await detector.bitmapOf(blob);
  return look(detector, bitmap, bitmap.width, bitmap.height);
}

function end(stream) {
  stream?.getTracks().forEach((track) => track.stop());
}

function press(pressed) {
  part("camera").setAttribute("aria-pressed", String(pressed));
  part("camera").textContent = pressed ? "Stop the camera" : "Camera";
}

function stop() {
  end(film?.stream);
  film = null;
  press(false);
}

async function start(detector) {
  const mine = (film = { stream: null });
  press(true);
  try {
    mine.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    const video = Object.assign(document.createElement("video"), { playsInline: true, muted: true });
    video.srcObject = mine.stream;
    if (film === mine) await video.play();
    while (film === mine) {
      await look(detector, video, video.videoWidth, video.videoHeight, mine);
      await new Promise(requestAnimationFrame);
    }
  } catch (error) {
    if (film === mine) failed(error);
  } finally {
    end(mine.stream); // also of a film that was stopped while the browser asked
    if (film === mine) stop();
  }
}

// A module that is missing or damaged fails here, where it can be said, and not before anything runs.
async function detectorOf(contract) {
  const code = await import("./detector.mjs").catch((error) => {
    throw new Error(`detector.mjs or ort.wasm.min.mjs is missing or damaged (${error.message}); ${AGAIN}`);
  });
  return code.Detector.open(contract, "model.onnx");
}

async function contractOf(name) {
  const answer = await fetch(name).catch(() => null);
  if (!answer?.ok) throw new Error(`${name} is missing on the server; ${AGAIN}`);
  const contract = await answer.json().catch(() => null);
  if (contract?.format !== 1 || !contract.preprocessing || !contract.classes?.length || !contract.model) {
    throw new Error(`${name} is damaged, or from a different version of edgedistill; ${AGAIN}`);
  }
  return contract;
}

async function open() {
  const contract = await contractOf("contract.json");
  document.title = part("title").textContent = contract.name;
  const detector = await detectorOf(contract);
  part("file").addEventListener("change", ({ target }) => {
    const [file] = target.files;
    target.value = ""; // otherwise the same file chosen again would be no change
    if (file) picture(detector, file).catch(failed);
  });
  part("camera").addEventListener("click", () => (film ? stop() : start(detector)));
  part("least").addEventListener("input", () => shown && draw(shown));
  globalThis.edgedistill = { detect: (blob) => picture(detector, blob) };
  await detector.detect(new ImageData(1, 1)); // so that the first picture is not the slowest
  say("Ready");
}

open().catch(failed);
