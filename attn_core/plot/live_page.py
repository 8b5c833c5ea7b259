"""The style and the script of the live figure: what the reader's browser runs."""

STYLE = """
.attn-live{background:#fff;color:#1a1a1a;color-scheme:light;padding:.5rem;border-radius:.25rem;
 max-width:46rem;container-type:inline-size;font:400 15px/1.4 system-ui,sans-serif}
.attn-live .panels{display:grid;grid-template-columns:1fr 1fr 1fr;gap:.25rem}
.attn-live svg{width:100%;height:auto;display:block}
.attn-live svg text{font:13px system-ui,sans-serif;paint-order:stroke;stroke:#fff;stroke-width:3px}
.attn-live svg .title{font-weight:700}
.attn-live svg .small{font-size:11.5px}
.attn-live .handle[tabindex]{cursor:grab;touch-action:none}
.attn-live .handle:focus{outline:none}
.attn-live .handle:focus-visible .ring{stroke:#0072B2;stroke-width:3}
.attn-live p{margin:.4rem 0;color:#1a1a1a}
.attn-live .reading{grid-column:1/-1}
.attn-live .controls:not([hidden]){display:grid;gap:.3rem}
.attn-live label{display:grid;grid-template-columns:9.5rem 1fr 3.2rem;gap:.5rem;align-items:center;
 color:#1a1a1a;margin:0}
.attn-live input{width:100%;min-height:24px;margin:0;accent-color:#0072B2}
.attn-live button{justify-self:start;font:inherit;padding:.2rem .7rem;color:#1a1a1a;
 background:#fff;border:1px solid #5f6368;border-radius:.25rem;cursor:pointer}
@container (max-width:34rem){.attn-live .panels{grid-template-columns:1fr 1fr}
 .attn-live svg text{font-size:17px}
 .attn-live svg .small{font-size:15px}
 .attn-live .weight text{font-size:16px}
 .attn-live .weight .small{font-size:15px}
 .attn-live .reading{grid-column:auto;align-self:center}
 .attn-live label{grid-template-columns:8.5rem 1fr 3rem}}
"""

# The figures on a page find themselves by their class: no ids, so none can collide.
SCRIPT = """
for (const root of document.querySelectorAll(".attn-live:not([data-ready])")) {
  root.dataset.ready = "";
  const data = name => JSON.parse(root.dataset[name]);
  const all = name => [...root.querySelectorAll(`:scope ${name}`)];
  const one = name => root.querySelector(`:scope ${name}`);
  const keys = data("keys"), values = data("values"), words = data("words");
  const frames = data("frames"), limit = data("limit");
  const start = { query: data("query"), temperature: data("temperature") };
  let query = [...start.query], temperature = start.temperature;
  const number = x => x.toFixed(2).replace("-0.00", "0.00").replace("-", "\\u2212");
  const pair = p => `(${number(p[0])}, ${number(p[1])})`;
  const place = (p, [x, y, unit]) => [120 + unit * (p[0] - x), 120 - unit * (p[1] - y)];
  const set = (element, changes) => {
    for (const [name, value] of Object.entries(changes)) element.setAttribute(name, value);
  };

  function attend() {
    const scores = keys.map(key => query[0] * key[0] + query[1] * key[1]);
    const highest = Math.max(...scores);
    const powers = scores.map(score => Math.exp((score - highest) / temperature));
    const total = powers.reduce((sum, power) => sum + power, 0);
    const weights = powers.map(power => power / total);
    const output = [0, 1].map(d => weights.reduce((sum, a, j) => sum + a * values[j][d], 0));
    return { scores, weights, output };
  }

  function show() {
    const { scores, weights, output } = attend();
    for (const [name, item] of Object.entries({ query, temperature, scores, weights, output }))
      root.dataset[name] = JSON.stringify(item);
    const [qx, qy] = place(query, frames.query), [ox, oy] = place(output, frames.output);
    set(one(".query-line"), { x2: qx, y2: qy });
    set(handle, { transform: `translate(${qx} ${qy})`, "aria-valuenow": query[0],
      "aria-valuetext": pair(query) });
    set(one(".output"), { transform: `translate(${ox} ${oy})` });
    set(one(".handle text"), { x: Math.min(Math.max(qx, 30), 210) - qx, y: qy <= 120 ? 23 : -12 });
    set(one(".output text"), { y: oy <= 120 ? 23 : -12 });
    weights.forEach((weight, j) => {
      all(".score-number")[j].textContent = number(scores[j]);
      all(".weight-number")[j].textContent = number(weight);
      set(all(".bar")[j], { width: 100 * weight });
      set(all(".pull")[j], { x1: ox, y1: oy, "stroke-width": 8 * weight });
    });
    const shown = { x: query[0], y: query[1], temperature };
    for (const input of all("input")) {
      input.value = shown[input.name];
      set(input, { "aria-valuetext": number(shown[input.name]) });
      one(`.${input.name}-number`).textContent = number(shown[input.name]);
    }
    const top = Math.max(...weights), share = number(top);
    const first = words.filter((_, j) => weights[j] > top - 1e-9).map(w => `\\u201c${w}\\u201d`);
    const most = first.length === 1 ? `Most weight: ${first[0]}, ${share}.`
      : first.length === words.length ? `All weights are equal, ${share}.`
      : `Most weight: ${first.slice(0, -1).join(", ")} and ${first.at(-1)}, ${share} each.`;
    one(".reading").textContent = `${most} Output: ${pair(output)}.`;
  }

  const move = (x, y) => {
    query = [x, y].map(c => Math.round(100 * Math.min(limit, Math.max(-limit, c))) / 100);
    show();
  };
  const handle = one(".handle"), drawing = one("svg.score");
  set(drawing, { role: "group" });
  set(handle, { tabindex: 0, role: "slider", "aria-label": "query, moved with the arrow keys",
    "aria-valuemin": -limit, "aria-valuemax": limit });
  set(one(".reading"), { role: "status" });
  one(".controls").hidden = false;
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  handle.addEventListener("keydown", event => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    move(query[0] + step[0] / 10, query[1] + step[1] / 10);
  });
  handle.addEventListener("pointerdown", event => {
    event.preventDefault();
    handle.focus({ focusVisible: false });
    handle.setPointerCapture(event.pointerId);
  });
  handle.addEventListener("pointermove", event => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const box = drawing.getBoundingClientRect(), [x0, y0, unit] = frames.query;
    move(x0 + (((event.clientX - box.left) * 240) / box.width - 120) / unit,
      y0 - (((event.clientY - box.top) * 264) / box.height - 142) / unit);
  });
  for (const input of all("input")) input.addEventListener("input", () => {
    if (input.name === "temperature") temperature = input.valueAsNumber;
    else query[input.name === "x" ? 0 : 1] = input.valueAsNumber;
    show();
  });
  one("button").addEventListener("click", () => {
    query = [...start.query];
    temperature = start.temperature;
    show();
  });
  show();
}
"""
