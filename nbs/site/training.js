// Train it here: the network of lesson 02 on 10,000 digits, in a worker, so that the page stays responsive.
"use strict";

// What the worker runs: all steps, with a report after the tenth, or the first large one, and then about ten times in a second.
function trainer() {
  const net = network();
  onmessage = ({ data: { images, labels, params, seed, optimizer, lr, bs, epochs } }) => {
    const pixels = (bytes) => Float32Array.from(bytes, (byte) => byte / 256), n = 10000, next = net.random(seed), memory = params.map(() => ({}));
    const valid = pixels(images.subarray(n * 784)), answers = labels.subarray(n);
    let losses = [], step = 0, reported = 0;
    for (let epoch = 0; epoch < epochs; epoch++) {
      const order = net.shuffled(n, next);
      for (let i = 0; i < n; i += bs) {
        const rows = Array.from(order.subarray(i, i + bs)), xb = new Uint8Array(rows.length * 784);
        rows.forEach((row, k) => xb.set(images.subarray(row * 784, (row + 1) * 784), k * 784));
        const { loss, grads } = net.backward(params, pixels(xb), rows.map((row) => labels[row]));
        params.forEach((part, k) => net.steps[optimizer](part, grads[k], lr, memory[k]));
        losses.push(loss);
        step += 1;
        const done = epoch === epochs - 1 && i + bs >= n;
        if (done || step === 10 || ((step > 10 || bs >= 1000) && performance.now() - reported > 100)) {
          postMessage({ step, losses, params, accuracy: net.accuracy(params, valid, answers), done });
          [losses, reported] = [[], performance.now()];
        }
      }
    }
  };
}

// A worker that trains: its code is text of this page, since a page opened from a folder may load no script for it.
const newTrainer = () => new Worker(URL.createObjectURL(new Blob([`${network}\n${trainer}\ntrainer();`])));

// The digits come with the page, in a script of their own that is read when it is wanted first.
const digits = {
  from: typeof document === "undefined" ? "" : document.currentScript.src.replace("training.js", "digits.js"),

  script: () => (digits.reading ??= new Promise((resolve, reject) => {
    const script = Object.assign(document.createElement("script"), { src: digits.from, onload: resolve, onerror: () => reject(new Error("The digits cannot be read.")) });
    document.head.append(script);
  })),

  // 11,000 pictures and their labels: the last 1,000 are for validation.
  async read() {
    await digits.script();
    const packed = new Blob([store.unpack(DIGITS)]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(packed).arrayBuffer());
    return { images: bytes.subarray(0, 11000 * 784), labels: bytes.subarray(11000 * 784) };
  },
};

// A curve from the first step to the last: the mean of the values in each column of pixels.
function curve(canvas, values, total, top, name) {
  const pen = canvas.getContext("2d"), { width, height } = canvas, style = getComputedStyle(canvas), left = 40, right = width - 10, low = height - 25, high = 25;
  const across = (step) => left + (step / total) * (right - left), up = (value) => low - Math.min(value / top, 1) * (low - high);
  pen.clearRect(0, 0, width, height);
  Object.assign(pen, { font: "13px sans-serif", fillStyle: style.color, strokeStyle: style.color, lineWidth: 1, textAlign: "left" });
  pen.strokeRect(left, high, right - left, low - high);
  pen.fillText(name, left, 15);
  pen.textAlign = "right";
  pen.fillText(top, left - 5, high + 10);
  pen.fillText(0, left - 5, low);
  pen.fillText(`step ${total}`, right, height - 8);
  const columns = Array.from({ length: right - left }, () => []);
  values.forEach(([step, value]) => columns[Math.min(Math.floor(across(step) - left), right - left - 1)].push(value));
  Object.assign(pen, { strokeStyle: style.getPropertyValue("--pst-color-primary"), lineWidth: 2, lineJoin: "round" });
  pen.beginPath();
  columns.forEach((all, k) => { if (all.length) pen.lineTo(left + k, up(all.reduce((a, b) => a + b) / all.length)); });
  pen.stroke();
}

// The weights of each of the 50 neurons as a picture: blue above 0, orange below.
function showWeights(canvas, w1) {
  const pen = canvas.getContext("2d"), picture = pen.createImageData(canvas.width, canvas.height);
  const scale = 3 * Math.sqrt(w1.reduce((total, w) => total + w * w, 0) / w1.length);
  w1.forEach((w, k) => {
    const neuron = Math.floor(k / 784), pixel = k % 784, size = Math.min(Math.abs(w) / scale, 1);
    const x = (neuron % 10) * 29 + (pixel % 28), y = Math.floor(neuron / 10) * 29 + Math.floor(pixel / 28);
    const strong = w > 0 ? [0, 70, 170] : [190, 80, 0];
    picture.data.set([...strong.map((c) => 255 - (255 - c) * size), 255], 4 * (y * canvas.width + x));
  });
  pen.putImageData(picture, 0, 0);
}

function trainingPanel(place) {
  const find = (selector) => place.querySelector(selector), says = (text) => { find(".says").textContent = text; };
  let worker = null, run = 0, latest = null, total = 1570, losses = [], accuracies = [];

  function curves() {
    curve(find(".loss-curve"), losses, total, 2.5, "loss of the batch (at the top: 2.5 or more)");
    curve(find(".accuracy-curve"), accuracies, total, 1, "share of 1,000 other digits that are read rightly");
  }

  function stop() {
    run += 1;  // what an earlier run still has to say is not listened to
    worker?.terminate();
    if (latest) store.save(latest);
    [worker, latest] = [null, null];
    [find(".train").disabled, find(".stop").disabled] = [false, true];
  }

  async function train() {
    stop();
    const mine = run, settings = Object.fromEntries([...place.querySelectorAll("[name]")].map(({ name, value }) => [name, name === "optimizer" ? value : Number(value)]));
    [total, losses, accuracies] = [settings.epochs * Math.ceil(10000 / settings.bs), [], []];
    curves();
    [find(".train").disabled, find(".stop").disabled] = [true, false];
    says("Reading the digits.");
    const { images, labels } = await digits.read();
    if (mine !== run) return;
    worker = newTrainer();
    worker.onmessage = ({ data }) => {
      if (mine !== run) return;
      data.losses.forEach((loss) => losses.push([losses.length + 1, loss]));
      accuracies.push([data.step, data.accuracy]);
      curves();
      showWeights(find(".first-weights"), data.params[0]);
      says(`Step ${data.step} of ${total}: loss ${data.losses.at(-1).toFixed(4)}, accuracy ${data.accuracy.toFixed(3)}.${data.done ? " Done." : ""}`);
      latest = data.params;
      if (data.done) stop();
    };
    worker.postMessage({ images, labels, params: network().fresh(settings.seed), ...settings });
  }

  find(".train").addEventListener("click", () => train().catch((error) => { stop(); says(error.message); }));
  find(".stop").addEventListener("click", () => { stop(); says(`${find(".says").textContent} Stopped.`); });
  showWeights(find(".first-weights"), network().fresh(0)[0]);
  curves();
  new MutationObserver(curves).observe(document.documentElement, { attributeFilter: ["data-theme"] });  // in the colours of the page
}

if (typeof document !== "undefined") {
  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".training-panel").forEach(trainingPanel));
}
