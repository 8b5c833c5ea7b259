"""The style and the script of the live figure of the scale: what the reader's browser runs."""

STYLE = """
.attn-scale{background:#fff;color:#1a1a1a;color-scheme:light;padding:.5rem;border-radius:.25rem;
 position:relative;max-width:40rem;container-type:inline-size;
 font:400 15px/1.35 system-ui,sans-serif}
.attn-scale .reading{position:absolute;width:1px;height:1px;margin:0;overflow:hidden;
 clip-path:inset(50%)}
.attn-scale .sides{display:grid;grid-template-columns:1fr 1fr;gap:0 1rem}
.attn-scale svg{width:100%;height:auto;display:block}
.attn-scale svg text{font:13px system-ui,sans-serif;fill:#1a1a1a;
 paint-order:stroke;stroke:#fff;stroke-width:3px}
.attn-scale svg .small{font-size:11.5px;fill:#5f6368}
.attn-scale p{margin:.3rem 0;color:#1a1a1a}
.attn-scale p.what{grid-column:1/3;margin:1.1rem 0 .2rem;font-weight:600}
.attn-scale p.bad{color:#a8071a;font-weight:700}
.attn-scale p.good{color:#17727f;font-weight:700}
.attn-scale .root{border-top:1.5px solid;padding:0 1px}
.attn-scale label{display:grid;grid-template-columns:auto 1fr 2.5rem;gap:.6rem;align-items:center;
 color:#1a1a1a;margin:0}
.attn-scale input{width:100%;min-height:24px;margin:0;accent-color:#0072B2}
@container (max-width:30rem){.attn-scale svg text{font-size:18px}
 .attn-scale svg .small{font-size:16px}
 .attn-scale label{grid-template-columns:1fr 2.5rem}
 .attn-scale label span:first-child{grid-column:1/3}}
"""

# The figures on a page find themselves by their class: no ids, so none can collide.
SCRIPT = """
for (const root of document.querySelectorAll(".attn-scale:not([data-ready])")) {
  root.dataset.ready = "";
  const data = name => JSON.parse(root.dataset[name]);
  const one = name => root.querySelector(`:scope ${name}`);
  const all = name => [...root.querySelectorAll(`:scope ${name}`)];
  const widths = data("widths"), dots = data("dots");
  const limit = data("limit"), highest = data("highest"), count = data("bins");
  const sum = numbers => numbers.reduce((total, number) => total + number, 0);
  const mean = numbers => sum(numbers) / numbers.length;

  const softmax = row => {
    const top = Math.max(...row), powers = row.map(score => Math.exp(score - top));
    const total = sum(powers);
    return powers.map(power => power / total);
  };
  // The root of the sum of the squares of a_j (1[j = m] - a_m), over all j and m.
  const derivative = weights => {
    const squares = sum(weights.map(a => a * a)), cubes = sum(weights.map(a => a * a * a));
    return Math.sqrt(Math.max(squares - 2 * cubes + squares * squares, 0));
  };
  const median = numbers => {
    const sorted = [...numbers].sort((a, b) => a - b), half = sorted.length / 2;
    return (sorted[Math.ceil(half) - 1] + sorted[Math.floor(half)]) / 2;
  };
  const side = rows => {
    const scores = rows.flat(), centre = mean(scores), weights = rows.map(softmax);
    return {
      scores,
      spread: Math.sqrt(mean(scores.map(score => (score - centre) ** 2))),
      weights: weights[0],
      derivatives: weights.map(derivative),
    };
  };
  const counts = scores => {
    const bins = Array(count).fill(0);
    for (const score of scores)
      bins[Math.min(count - 1, Math.floor(((score + limit) / (2 * limit)) * count))] += 1;
    return bins;
  };
  const bars = (heights, full) => heights.map((height, i) => {
    const step = 232 / heights.length, left = 4 + (i + 0.1) * step;
    const top = 84 - (60 * height) / full;
    return `M${left.toFixed(2)} 84.00V${top.toFixed(2)}`
      + `H${(left + 0.8 * step).toFixed(2)}V84.00z`;
  }).join("");

  const input = one("input");
  function show() {
    const width = widths[input.valueAsNumber], rows = dots[input.valueAsNumber];
    const sides = [1, Math.sqrt(width)].map(d => side(rows.map(row => row.map(s => s / d))));
    root.dataset.width = width;
    root.dataset.spreads = JSON.stringify(sides.map(s => s.spread));
    for (const name of ["weights", "derivatives"])
      root.dataset[name] = JSON.stringify(sides.map(s => s[name]));
    const texts = sides.map(s => [
      `standard deviation ${s.spread.toFixed(1)}`,
      `largest ${Math.max(...s.weights).toFixed(2)}`,
      `median ${median(s.derivatives).toFixed(2)}`,
    ]);
    sides.forEach((s, i) => {
      const paths = [bars(counts(s.scores), highest), bars(s.weights, 1), bars(s.derivatives, 0.5)];
      ["scores", "weights", "derivatives"].forEach((name, row) => {
        const drawing = all(`svg.${name}`)[i];
        drawing.querySelector(".bars").setAttribute("d", paths[row]);
        drawing.querySelector(".number").textContent = texts[i][row];
      });
    });
    const told = ([spread, weight, derivatives]) =>
      `${spread}; weights: ${weight}; derivatives: ${derivatives}.`;
    one(".reading").textContent = `Width ${width}. Not scaled: ${told(texts[0])} `
      + `Divided by \\u221aD: ${told(texts[1])}`;
    one(".width-number").textContent = width;
    input.setAttribute("aria-valuetext", width);
  }
  one(".reading").setAttribute("role", "status");
  one(".controls").hidden = false;
  input.addEventListener("input", show);
  show();
}
"""
