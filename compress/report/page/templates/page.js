"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const themes = ["system", "light", "dark"];
  let at = 0;
  button.hidden = false;
  button.addEventListener("click", () => {
    at = (at + 1) % themes.length;
    if (at) root.dataset.theme = themes[at]; else delete root.dataset.theme;
    button.querySelector("span").textContent = themes[at];
  });
  for (const copy of document.querySelectorAll(".copy")) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      const pre = copy.previousElementSibling;
      getSelection().selectAllChildren(pre);  // where the browser refuses the clipboard, the text is at least selected
      try { await navigator.clipboard.writeText(pre.textContent); copy.textContent = "Copied"; } catch { copy.textContent = "Selected"; }
    });
  }
  // lost items that are folded on the screen are printed, and folded again afterwards; tables of all figures are not
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details.group:not([open])")];
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of folded) one.open = false; });
})();
