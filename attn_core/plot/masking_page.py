"""The style and the script of the live figure of masks: what the reader's browser runs."""

STYLE = """
.attn-mask{background:#fff;color:#1a1a1a;color-scheme:light;padding:.5rem;border-radius:.25rem;
 max-width:42rem;container-type:inline-size;font:400 15px/1.35 system-ui,sans-serif}
.attn-mask .panels{display:grid;grid-template-columns:1fr 1fr;gap:.5rem 1.5rem}
.attn-mask svg{width:100%;height:auto;display:block}
.attn-mask svg text{font:11.5px system-ui,sans-serif;fill:#1a1a1a}
.attn-mask .cell{stroke:#8a8d91;stroke-width:.6}
.attn-mask p{margin:.4rem 0;color:#1a1a1a}
.attn-mask .code code{background:none;border:0;padding:0;color:#1a1a1a;font-size:14px;
 white-space:normal;overflow-wrap:anywhere}
.attn-mask .controls:not([hidden]){display:grid;gap:.3rem}
.attn-mask .boxes{display:flex;gap:1.2rem}
.attn-mask .boxes label{display:flex;gap:.4rem;align-items:center;min-height:24px}
.attn-mask .sliders{display:grid;grid-template-columns:1fr 1fr;gap:.1rem 1.5rem}
.attn-mask .sliders label{display:grid;grid-template-columns:9.2rem 1fr 1.8rem;gap:.4rem;
 align-items:center}
.attn-mask label{color:#1a1a1a;margin:0}
.attn-mask input{accent-color:#0072B2;margin:0;min-height:24px;min-width:0}
.attn-mask input[type=range]{width:100%}
@container (max-width:32rem){.attn-mask .panels,.attn-mask .sliders{grid-template-columns:1fr}
 .attn-mask svg text{font-size:12.5px}}
"""

# The figures on a page find themselves by their class: no ids, so none can collide.
SCRIPT = """
for (const root of document.querySelectorAll(".attn-mask:not([data-ready])")) {
  root.dataset.ready = "";
  const data = name => JSON.parse(root.dataset[name]);
  const one = name => root.querySelector(`:scope ${name}`);
  const all = name => [...root.querySelectorAll(`:scope ${name}`)];
  const tokens = data("tokens"), ids = data("documents"), n = tokens.length;
  const places = tokens.map((_, i) => i), fills = ["#ffffff", "#e6bcd6", "#A5397F"];
  const inputs = all("input"), cells = all(".cell");

  const table = s => places.map(i => places.map(j => Number(
    (Math.abs(i - j) <= s.window || i < s.global || j < s.global)
    && (!s.causal || j <= i) && (!s.document || ids[i] === ids[j]) && j < s.length)));
  // Who is seen through both: some m lies between i and j.
  const through = (a, b) => places.map(i => places.map(j =>
    Number(places.some(m => a[i][m] && b[m][j]))));

  function code(s) {
    const parts = [], near = `window(${s.window}, ${s.window})`;
    if (s.window < n - 1)
      parts.push(s.global ? `(${near} | global_tokens(${s.global}))` : near);
    if (s.causal) parts.push("causal()");
    if (s.document) parts.push("document(ids)");
    if (s.length < n) parts.push(`padding([${s.length}])`);
    return "mask = " + (parts.join(" & ") || "None");
  }

  function paths(mask, powers, query) {
    const x = i => 48 + ((i + 0.5) * 178) / n, lines = [], dots = [];
    const y = depth => (12 + (176 * depth) / (powers.length - 1)).toFixed(2);
    powers.forEach((seen, depth) => {
      for (const i of places) if (seen[query][i]) {
        dots.push(`M${(x(i) - 4).toFixed(2)} ${y(depth)}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0`);
        if (depth < powers.length - 1) for (const j of places) if (mask[i][j])
          lines.push(`M${x(i).toFixed(2)} ${y(depth)}L${x(j).toFixed(2)} ${y(depth + 1)}`);
      }
    });
    one(".lines").setAttribute("d", lines.join(""));
    one(".dots").setAttribute("d", dots.join(""));
    all(".depth").forEach((text, depth) => {
      const shown = depth < powers.length;
      text.textContent = shown ? (depth ? `layer ${depth}` : "query") : "";
      if (shown) text.setAttribute("y", (Number(y(depth)) + 4).toFixed(2));
    });
  }

  function show() {
    const s = {};
    for (const input of inputs) {
      s[input.name] = input.type === "range" ? input.valueAsNumber : Number(input.checked);
      root.dataset[input.name] = s[input.name];
      if (input.type === "range") one(`.${input.name}-number`).textContent = s[input.name];
    }
    const mask = table(s), powers = [places.map(i => places.map(j => Number(i === j)))];
    for (let layer = 0; layer < s.layers; layer++) powers.push(through(mask, powers.at(-1)));
    const reach = powers.at(-1), count = row => row.reduce((sum, seen) => sum + seen, 0);
    root.dataset.mask = JSON.stringify(mask);
    root.dataset.reach = JSON.stringify(reach);
    cells.forEach((cell, index) => {
      const i = Math.floor(index / n), j = index % n;
      cell.setAttribute("fill", fills[mask[i][j] ? 2 : reach[i][j]]);
    });
    one(".row").setAttribute("y", (62 + (s.query * 172) / n).toFixed(2));
    paths(mask, powers, s.query);
    one("code").textContent = code(s);
    one(".reading").textContent = `Query ${s.query}, \\u201c${tokens[s.query]}\\u201d, sees `
      + `${count(mask[s.query])} of ${n} keys`
      + (count(mask[s.query]) ? "" : ": an empty row")
      + (s.layers > 1 ? `; through ${s.layers} layers, ${count(reach[s.query])}.` : ".");
    one("[name=query]").setAttribute("aria-valuetext", `${s.query}, ${tokens[s.query]}`);
  }

  for (const input of inputs) input.addEventListener("input", show);
  // A click or a moving mouse on a row chooses its query.
  const choose = event => {
    const index = cells.indexOf(event.target);
    if (index < 0) return;
    one("[name=query]").value = Math.floor(index / n);
    show();
  };
  for (const kind of ["pointerover", "click"]) one("svg.grid").addEventListener(kind, choose);
  one(".reading").setAttribute("role", "status");
  one(".controls").hidden = false;
  show();
}
"""
