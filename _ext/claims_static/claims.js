// The register's filter, and the cells that its links lead to. Without script all rows are shown.
(() => {
  // A link to a folded cell unfolds it.
  const unfold = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    const target = id.startsWith("cell-claim-") && document.getElementById(id);
    if (!target) return;
    const cell = target.closest(".cell") ?? target;
    for (const details of cell.querySelectorAll("details")) details.open = true;
    for (let box = cell.closest("details"); box; box = box.parentElement.closest("details")) {
      box.open = true;
    }
    cell.scrollIntoView();
  };
  window.addEventListener("hashchange", unfold);
  window.addEventListener("load", unfold);

  const form = document.querySelector(".claims-filter");
  if (!form) return;
  const rows = [...document.querySelectorAll(".claims > .claim")];
  const sections = [...document.querySelectorAll("article section section")];
  const texts = rows.map((row) => row.textContent.toLowerCase());

  const filter = () => {
    const { words, verdict, document: source } = form.elements;
    const wanted = words.value.toLowerCase().split(/\s+/);
    rows.forEach((row, index) => {
      row.hidden = !(
        wanted.every((word) => texts[index].includes(word)) &&
        (!verdict.value || row.classList.contains(`verdict-${verdict.value}`)) &&
        (!source.value || row.classList.contains(source.value))
      );
    });
    for (const section of sections) section.hidden = !section.querySelector(".claim:not([hidden])");
    const shown = rows.filter((row) => !row.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${rows.length} claims`;
  };
  // A link to a row that the filter hides shows all rows again.
  const show = () => {
    const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (row?.hidden) {
      form.reset();
      setTimeout(() => row.scrollIntoView());
    }
  };

  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", show);
})();
