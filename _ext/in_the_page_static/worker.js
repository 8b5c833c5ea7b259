// The worker of python.js: loads Pyodide and the book's package, and runs what the page asks for.
// The first message names the folder of Pyodide; each other one is answered under its number.
"use strict";
const HOME = "/home/pyodide/book"; // where book.zip is unpacked
const FIGURES = ["matplotlib", "pillow", "contourpy", "kiwisolver", "cycler"].concat(
  ["python-dateutil", "packaging", "pyparsing", "six"],
);

const started = Promise.withResolvers?.() ?? withResolvers(); // the folder of Pyodide
let interpreter = null; // a promise of {pyodide, kernel}

function withResolvers() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

function broken(text) {
  self.postMessage({ broken: text });
  throw new Error(text);
}

// --- bytes ---------------------------------------------------------------------------------

const fetchFile = self.fetch.bind(self);
const progress = { what: "Loading Python", loaded: 0, total: 0 };
let said = 0;

function say() {
  const now = performance.now();
  if (now - said < 50 && progress.loaded < progress.total) return;
  said = now;
  self.postMessage({ progress });
}

// The bytes are counted on a copy, so that the browser still compiles the original as it arrives.
async function counted(address, options) {
  const name = new URL(address.url ?? address, self.location.href).pathname.split("/").at(-1);
  const answer = await fetchFile(address, options).catch(() => null);
  if (!answer?.ok) throw new Error(`${name} cannot be loaded (${answer?.status ?? "no answer"}).`);
  count(answer.clone());
  return answer;
}

// Pyodide waits for ever for a file that is not there.
self.fetch = (address, options) => counted(address, options).catch(({ message }) => broken(message));

async function count(answer) {
  const reader = answer.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    progress.loaded += part.value.length;
    say();
  }
}

// --- the interpreter -----------------------------------------------------------------------

function plan(sizes, names) {
  const files = Object.keys(sizes).filter((file) => names.some((n) => file.startsWith(n)));
  progress.total += files.reduce((sum, file) => sum + sizes[file], 0);
}

async function start(figures) {
  const folder = await started.promise;
  try {
    // Where a policy forbids WebAssembly, Pyodide waits for ever; the smallest module says so.
    new WebAssembly.Module(Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0));
  } catch {
    broken("This site forbids WebAssembly ('wasm-unsafe-eval' in its content security policy).");
  }
  const sizes = await (await self.fetch(`${folder}files.json`)).json();
  const core = ["pyodide", "python_stdlib", "numpy"];
  plan(sizes, figures ? [...core, ...fileNames(FIGURES)] : core);
  importScripts(`${folder}pyodide.js`);
  progress.loaded += sizes["pyodide.js"] + sizes["pyodide.asm.js"]; // fetched by importScripts
  const archive = self.fetch("book.zip");
  const pyodide = await loadPyodide({
    indexURL: folder,
    packages: figures ? ["numpy", ...FIGURES] : ["numpy"], // they travel beside the core
    env: { HOME: "/home/pyodide", MPLBACKEND: "module://page_figures" },
    stdout: () => {},
    stderr: (text) => console.debug(text),
  });
  pyodide.unpackArchive(await (await archive).arrayBuffer(), "zip", { extractDir: HOME });
  pyodide.runPython(`import sys; sys.path.insert(0, "${HOME}")`);
  progress.what = "Starting NumPy";
  self.postMessage({ progress });
  return { pyodide, sizes, kernel: pyodide.pyimport("page_kernel") };
}

const fileNames = (packages) => packages.map((name) => name.replaceAll("-", "_") + "-");

async function withFigures({ pyodide, sizes }) {
  const missing = FIGURES.filter((name) => !(name in pyodide.loadedPackages));
  if (missing.length === 0) return;
  progress.what = "Loading Matplotlib";
  plan(sizes, fileNames(missing));
  await pyodide.loadPackage(missing);
}

// --- what the page asks for ----------------------------------------------------------------

const answers = {
  start: () => null,
  run: ({ kernel }, { code, options }) => JSON.parse(kernel.run(code, JSON.stringify(options))),
  call: ({ kernel }, { module, name, values }) => {
    const answered = JSON.parse(kernel.call(module, name, values));
    if ("failed" in answered) throw new Error(answered.failed);
    return answered.result;
  },
  file: async ({ pyodide }, { url, path }) => {
    const where = path.startsWith("/") ? path : `${HOME}/${path}`;
    pyodide.FS.mkdirTree(where.split("/").slice(0, -1).join("/"));
    Object.assign(progress, { what: `Loading ${path}`, loaded: 0, total: 0 });
    const head = await fetchFile(url, { method: "HEAD" });
    progress.total = Number(head.headers.get("Content-Length")); // 0 where the host says nothing
    const answer = await counted(url);
    pyodide.FS.writeFile(where, new Uint8Array(await answer.arrayBuffer()));
    return where;
  },
};

async function answer(data) {
  let python;
  try {
    interpreter ??= start(data.figures);
    python = await interpreter;
    if (data.figures) await withFigures(python);
  } catch (error) {
    self.postMessage({ broken: String(error.message ?? error) });
    return;
  }
  try {
    self.postMessage({ id: data.id, result: await answers[data.what](python, data) });
  } catch (error) {
    self.postMessage({ id: data.id, failed: String(error.message ?? error) });
  }
}

let queue = Promise.resolve(); // one thing at a time, in order

self.onmessage = ({ data }) => {
  if ("pyodide" in data) started.resolve(data.pyodide);
  else queue = queue.then(() => answer(data));
};
