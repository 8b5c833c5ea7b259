// Python in the page: one interpreter, in a worker, started when somebody asks for it.
//
//   bookPython.available()                    "" or why Python cannot run here, for the reader
//   await bookPython.start(onProgress, {figures})     onProgress({what, loaded, total}), bytes
//   await bookPython.run(code, {before, names, folder, goesOn})   {outputs, error, seconds}
//   await bookPython.call(module, name, [JSON])       what the function returns, as JSON
//   await bookPython.file(url, path, onProgress)      a file of the site, for Python to open
//   bookPython.stop()                         ends the worker; what waits is rejected as "Stopped"
//
// Nothing is fetched before the first of these is called, and nothing from another site.
"use strict";
window.bookPython ??= (() => {
  const script = document.currentScript;
  const pyodide = script.dataset.pyodide; // Pyodide's folder, beside the folder of this script
  const waiting = new Map(); // by the number of the message: {resolve, reject, onProgress}
  let worker = null;
  let count = 0;

  const available = () => {
    if (!pyodide) return "This copy of the book was built without Python for the page.";
    if (location.protocol === "file:") {
      return "A browser runs Python only in a page that is served: open the book with “make serve”.";
    }
    if (!window.WebAssembly || !window.Worker) {
      return "Python cannot run here: this browser has no WebAssembly or no workers.";
    }
    return "";
  };

  const end = (error) => {
    worker?.terminate();
    worker = null;
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };

  const stop = () => end(Object.assign(new Error("Stopped."), { name: "Stopped" }));

  const begin = () => {
    worker = new Worker(new URL("worker.js", script.src), { name: "Python of this page" });
    worker.onmessage = ({ data }) => {
      if ("progress" in data) {
        for (const { onProgress } of waiting.values()) onProgress?.(data.progress);
      } else if ("broken" in data) {
        end(new Error(data.broken));
      } else {
        const { resolve, reject } = waiting.get(data.id);
        waiting.delete(data.id);
        if ("failed" in data) reject(new Error(data.failed));
        else resolve(data.result);
      }
    };
    worker.onerror = (event) => end(new Error(event.message || "worker.js cannot be loaded."));
    worker.postMessage({ pyodide: new URL(`../${pyodide}/`, script.src).href });
  };

  const ask = (what, details, onProgress) => {
    const reason = available();
    if (reason) return Promise.reject(new Error(reason));
    if (!worker) begin();
    const id = ++count;
    return new Promise((resolve, reject) => {
      waiting.set(id, { resolve, reject, onProgress });
      worker.postMessage({ id, what, ...details });
    });
  };

  return {
    available,
    stop,
    start: (onProgress, { figures = false } = {}) => ask("start", { figures }, onProgress),
    run: (code, { before = [], names = [], folder = "", goesOn = false } = {}) =>
      ask("run", { figures: true, code, options: { before, names, folder, goesOn } }),
    call: (module, name, values = []) =>
      ask("call", { module, name, values: JSON.stringify(values) }),
    file: (url, path, onProgress) =>
      ask("file", { url: new URL(url, document.baseURI).href, path }, onProgress),
  };
})();
