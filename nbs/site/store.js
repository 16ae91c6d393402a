// The networks that the pages know: the one they come with (weights.js), and the one that the reader trained, kept in the browser.
"use strict";

const store = {
  key: "minitorch_train.network",

  // Bytes as text, and back.
  pack: (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")),
  unpack: (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)),

  // The four parts of a network from the text of all its numbers.
  network(text) {
    const numbers = new Float32Array(store.unpack(text).buffer);
    return [[0, 39200], [39200, 39250], [39250, 39750], [39750, 39760]].map(([start, end]) => numbers.slice(start, end));
  },

  save(params) {
    store.trained = store.pack(new Uint8Array(Float32Array.from(params.flatMap((part) => Array.from(part))).buffer));
    try { localStorage.setItem(store.key, store.trained); } catch { /* kept on this page only */ }
    document.dispatchEvent(new Event("trained"));
  },

  // The reader's network, or none.
  load() {
    try { store.trained ??= localStorage.getItem(store.key); } catch { /* a browser that keeps nothing */ }
    return store.trained ? store.network(store.trained) : null;
  },
};
