"""The style and the script of the live figure of the kernel: what the reader's browser runs."""

STYLE = """
.attn-kernel{background:#fff;color:#1a1a1a;color-scheme:light;padding:.5rem;border-radius:.25rem;
 max-width:40rem;container-type:inline-size;font:400 15px/1.4 system-ui,sans-serif}
.attn-kernel svg{width:100%;height:auto;display:block}
.attn-kernel svg text{font:12px system-ui,sans-serif;fill:#5f6368;
 paint-order:stroke;stroke:#fff;stroke-width:3px}
.attn-kernel p{margin:.4rem 0;color:#1a1a1a;min-height:2.8em}
.attn-kernel .controls:not([hidden]){display:grid;gap:.3rem}
.attn-kernel label{display:grid;grid-template-columns:7.5rem 1fr 3.2rem;gap:.5rem;
 align-items:center;color:#1a1a1a;margin:0}
.attn-kernel input{width:100%;min-height:24px;margin:0;accent-color:#0072B2}
@container (max-width:30rem){.attn-kernel svg text{font-size:17px}
 .attn-kernel label{grid-template-columns:6.5rem 1fr 2.7rem}}
"""

# The figures on a page find themselves by their class: no ids, so none can collide.
SCRIPT = """
for (const root of document.querySelectorAll(".attn-kernel:not([data-ready])")) {
  root.dataset.ready = "";
  const data = name => JSON.parse(root.dataset[name]);
  const one = name => root.querySelector(`:scope ${name}`);
  const all = name => [...root.querySelectorAll(`:scope ${name}`)];
  const keys = data("keys"), values = data("values"), bandwidths = data("bandwidths");
  const [low, high, floor, ceiling] = data("frame"), places = data("curve").length;
  const number = (x, digits) => x.toFixed(digits).replace("-", "\\u2212");
  const across = key => 46 + (426 * (key - low)) / (high - low);
  const down = value => 186 - (170 * (value - floor)) / (ceiling - floor);
  let query = data("query"), bandwidth = data("bandwidth");

  function attend(place) {
    const scores = keys.map(key => -((place - key) ** 2) / (2 * bandwidth ** 2));
    const top = Math.max(...scores), powers = scores.map(score => Math.exp(score - top));
    const total = powers.reduce((sum, power) => sum + power, 0);
    const weights = powers.map(power => power / total);
    return { weights, output: weights.reduce((sum, a, j) => sum + a * values[j], 0) };
  }

  function show() {
    const { weights, output } = attend(query), highest = Math.max(...weights);
    const curve = Array.from({ length: places },
      (_, i) => attend(low + ((high - low) * i) / (places - 1)).output);
    for (const [name, item] of Object.entries({ query, bandwidth, weights, output, curve }))
      root.dataset[name] = JSON.stringify(item);
    one(".curve").setAttribute("d", curve.map((value, i) => (i ? "L" : "M")
      + `${(46 + (426 * i) / (places - 1)).toFixed(2)} ${down(value).toFixed(2)}`).join(""));
    const x = across(query).toFixed(2);
    one(".at").setAttribute("d", `M${x} 16V186M${x} 234V286`);
    one(".answer").setAttribute("cx", x);
    one(".answer").setAttribute("cy", down(output).toFixed(2));
    const seen = all(".seen"), bars = all(".bar");
    weights.forEach((weight, j) => {
      seen[j].setAttribute("r", (2.2 + (6 * weight) / highest).toFixed(2));
      bars[j].setAttribute("d", `M${across(keys[j]).toFixed(2)} 286`
        + `V${(286 - (52 * weight) / highest).toFixed(2)}`);
    });
    one(".top").textContent = `weights, highest ${highest.toFixed(3)}`;
    const nearest = weights.indexOf(highest);
    const many = weights.filter(weight => weight >= 0.01).length;
    one(".reading").textContent = `At ${number(query, 2)} the answer is ${number(output, 1)}. `
      + `The key ${number(keys[nearest], 2)} has the most weight, ${highest.toFixed(3)}; `
      + `${many} of ${keys.length} keys ${many === 1 ? "has" : "have"} 0.01 or more.`;
    const [place, width] = all("input");
    place.value = query;
    width.value = bandwidths.indexOf(bandwidth);
    place.setAttribute("aria-valuetext", `${data("axes")[0]} ${number(query, 2)}`);
    width.setAttribute("aria-valuetext", bandwidth);
    one(".query-number").textContent = number(query, 2);
    one(".bandwidth-number").textContent = bandwidth;
  }

  const [place, width] = all("input");
  place.addEventListener("input", () => { query = place.valueAsNumber; show(); });
  width.addEventListener("input", () => { bandwidth = bandwidths[width.valueAsNumber]; show(); });
  // An arrow key goes to the next round number, so every round place can be reached again.
  const grid = 10 ** Math.floor(Math.log10((high - low) / 100));
  place.addEventListener("keydown", event => {
    const up = ["ArrowRight", "ArrowUp"].includes(event.key);
    if (!up && !["ArrowLeft", "ArrowDown"].includes(event.key)) return;
    event.preventDefault();
    const at = query / grid, next = up ? Math.floor(at + 1e-6) + 1 : Math.ceil(at - 1e-6) - 1;
    query = Math.min(high, Math.max(low, Number((next * grid).toPrecision(12))));
    show();
  });
  one(".reading").setAttribute("role", "status");
  one(".controls").hidden = false;
  show();
}
"""
