// Wide equations scroll in their own box (book.css); a keyboard must be able to reach that box.
// The theme does the same for code and tables.
(() => {
  const markScrollable = () => {
    for (const box of document.querySelectorAll('mjx-container[display="true"]')) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  window.addEventListener("load", () => {
    window.MathJax?.startup?.promise.then(markScrollable);
  });
  window.addEventListener("resize", markScrollable);
})();
