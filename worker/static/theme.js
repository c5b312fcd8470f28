// Light, dark, or as the system has it: which of them is kept for this browser.

import { byId } from "./dom.js";

const KEPT = "kimi-proxy.theme";
const THEMES = ["auto", "light", "dark"];

function show(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
}

export function startTheme() {
  const kept = localStorage.getItem(KEPT);
  let theme = THEMES.includes(kept) ? kept : "auto";
  show(theme);
  byId("theme").onclick = () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    localStorage.setItem(KEPT, theme);
    show(theme);
  };
}
