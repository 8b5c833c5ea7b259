// What is wider than the column scrolls in its own box (book.css). A keyboard must be able to reach
// that box, and a reader to see that there is more.
(() => {
  const BOXES = ".formula, .highlight pre, .cell_output .output, .pst-scrollable-table-container";

  const mark = (box) => {
    const left = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.classList.toggle("cut", left > 1);
  };

  const markAll = () => {
    for (const box of document.querySelectorAll(BOXES)) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else if (box.matches(".formula")) box.removeAttribute("tabindex"); // the theme does the others
      mark(box);
    }
  };

  const start = () => {
    const observer = new ResizeObserver(markAll); // the column changes after the window has
    for (const box of document.querySelectorAll(BOXES)) {
      observer.observe(box);
      box.addEventListener("scroll", () => mark(box), { passive: true });
    }
    markAll();
    document.fonts.ready.then(markAll);
  };

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
  document.addEventListener("toggle", markAll, true); // something was unfolded
})();

// A formula is copied as the LaTeX that it was written in.
document.addEventListener("copy", (event) => {
  const selection = getSelection();
  if (selection.isCollapsed || !event.clipboardData) return;
  const range = selection.getRangeAt(0);
  const formulaOf = (node) => (node.nodeType === 1 ? node : node.parentElement)?.closest(".katex");
  // A formula is copied whole, also where the selection begins or ends inside it.
  const first = formulaOf(range.startContainer);
  const last = formulaOf(range.endContainer);
  if (first) range.setStartBefore(first);
  if (last) range.setEndAfter(last);
  const copied = document.createElement("div");
  copied.append(range.cloneContents());
  if (!copied.querySelector(".katex")) return;
  for (const formula of copied.querySelectorAll(".katex")) {
    const tex = formula.querySelector("annotation").textContent;
    const display = formula.querySelector('math[display="block"]');
    formula.replaceWith(display ? `$$${tex}$$` : `$${tex}$`);
  }
  event.clipboardData.setData("text/html", copied.innerHTML);
  document.body.append(copied); // innerText needs a place to know where lines end
  event.clipboardData.setData("text/plain", copied.innerText);
  copied.remove();
  event.preventDefault();
});
