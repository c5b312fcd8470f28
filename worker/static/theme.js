// Light, dark, or as the system has it: which of them is kept for this browser.

import { byId } from "./dom.js";

const KEPT = "kimi-proxy.theme";
const THEMES = ["auto", "light", "dark"];

/** A browser may forbid a page to keep anything, and then throws at the very name. */
function read() {
  try {
    return localStorage.getItem(KEPT);
  } catch {
    return null;
  }
}

function keep(theme) {
  try {
    localStorage.setItem(KEPT, theme);
  } catch {
    // Then it lasts as long as the page.
  }
}

function show(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
}

export function startTheme() {
  const kept = read();
  let theme = THEMES.includes(kept) ? kept : "auto";
  show(theme);
  byId("theme").onclick = () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    keep(theme);
    show(theme);
  };
}
