// Set formulas with KaTeX: [[tex, display], …] comes in, [{html} or {refused}, …] goes out.
const fs = require("node:fs");
const katex = require(process.argv[2]);

const set = ([tex, displayMode]) => {
  try {
    // KaTeX does not know the width of a Chinese character; the browser does.
    const strict = (code) => (code === "unknownSymbol" ? "ignore" : "error");
    return { html: katex.renderToString(tex, { displayMode, strict }) };
  } catch (error) {
    return { refused: error.message };
  }
};

fs.writeFileSync(1, JSON.stringify(JSON.parse(fs.readFileSync(0)).map(set)));
