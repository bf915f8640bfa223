// Light, dark, or as the system has it. No module: it runs before the first paint.
"use strict";

(() => {
  const KEY = "trialogue.theme";
  const ORDER = ["auto", "light", "dark"];

  /** @returns {string} */
  function read() {
    try {
      const stored = localStorage.getItem(KEY) ?? "";
      return ORDER.includes(stored) ? stored : "auto";
    } catch {
      return "auto"; // no storage: a private window, say
    }
  }

  /** @param {string} theme */
  function show(theme) {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  }

  show(read());
  /** @type {any} */ (globalThis).trialogueTheme = {
    get current() {
      return read();
    },
    /** Take the next one, and return its name. */
    next() {
      const theme = ORDER[(ORDER.indexOf(read()) + 1) % ORDER.length];
      try {
        localStorage.setItem(KEY, theme);
      } catch {
        // It holds as long as the page.
      }
      show(theme);
      return theme;
    },
  };
})();
