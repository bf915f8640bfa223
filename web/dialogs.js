/** What opens above the page: a menu, a question to be sure, a name, a credential, the shortcuts. */

import { byId, h } from "./dom.js";

const CREDENTIAL = "trialogue.credential";

/** @returns {{scheme: "apiKey" | "bearer", token: string}?} It lives as long as the tab. */
export function readCredential() {
  try {
    return JSON.parse(sessionStorage.getItem(CREDENTIAL) ?? "null");
  } catch {
    return null;
  }
}

/** @param {{scheme: string, token: string}?} credential */
function storeCredential(credential) {
  if (credential) sessionStorage.setItem(CREDENTIAL, JSON.stringify(credential));
  else sessionStorage.removeItem(CREDENTIAL);
}

/**
 * Open a dialog of the page, and wait until it is closed.
 * @param {string} id
 * @returns {Promise<string>} Which button closed it; empty for Escape.
 */
function open(id) {
  const dialog = /** @type {HTMLDialogElement} */ (byId(id));
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}

/** Make every button in dialogs with a value close its dialog. Call it once. */
export function setUpDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector("form")?.addEventListener("submit", (event) => {
      event.preventDefault();
      dialog.close(
        /** @type {HTMLButtonElement?} */ (/** @type {SubmitEvent} */ (event).submitter)?.value ??
          "ok",
      );
    });
    for (const button of dialog.querySelectorAll("button[data-cancel]")) {
      button.addEventListener("click", () => dialog.close(""));
    }
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close("");
    });
  }
}

/** @param {string} title @param {string} text @param {string} action @returns {Promise<boolean>} */
export async function confirm(title, text, action) {
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-action").textContent = action;
  return (await open("confirm")) === "ok";
}

/** @param {string} name @returns {Promise<string?>} */
export async function askName(name) {
  const input = /** @type {HTMLInputElement} */ (byId("rename-name"));
  input.value = name;
  const answer = open("rename");
  input.select();
  return (await answer) === "ok" && input.value.trim() ? input.value.trim() : null;
}

/**
 * Ask for a credential. It is kept for this tab, and sent in `hello`.
 * @param {string} why Empty if nobody demands one.
 * @returns {Promise<boolean>} Whether it is another one than before.
 */
export async function askCredential(why) {
  const token = /** @type {HTMLInputElement} */ (byId("token"));
  const scheme = /** @type {HTMLSelectElement} */ (byId("scheme"));
  const known = readCredential();
  token.value = known?.token ?? "";
  scheme.value = known?.scheme ?? "bearer";
  byId("credential-why").textContent = why;
  byId("credential-why").hidden = !why;
  if ((await open("credential")) !== "ok") {
    token.value = "";
    return false;
  }
  const given = token.value.trim();
  token.value = ""; // not to stay in the page
  storeCredential(given ? { scheme: scheme.value, token: given } : null);
  return true;
}

export function showShortcuts() {
  open("shortcuts");
}

/**
 * Open a menu at a button.
 * @param {HTMLElement} button
 * @param {{label: string, run: () => void, isDanger?: boolean}[]} entries
 */
export function openMenu(button, entries) {
  const menu = h(
    "div.menu",
    { role: "menu", popover: "auto" },
    ...entries.map((entry) =>
      h(
        entry.isDanger ? "button.danger" : "button",
        {
          type: "button",
          role: "menuitem",
          tabindex: -1,
          click: () => {
            menu.hidePopover();
            entry.run();
          },
        },
        entry.label,
      ),
    ),
  );
  (button.closest("nav, main") ?? document.body).append(menu);
  menu.addEventListener("toggle", (/** @type {any} */ event) => {
    if (event.newState !== "closed") return;
    menu.remove();
    button.removeAttribute("aria-expanded");
  });
  menu.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const items = [...menu.children];
    const here = items.indexOf(document.activeElement);
    const next = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: items.length - 1 }[
      event.key
    ];
    if (event.key === "Escape" || event.key === "Tab") {
      menu.hidePopover();
      button.focus();
    }
    if (next !== undefined) {
      event.preventDefault();
      items[(next + items.length) % items.length].focus();
    }
    event.stopPropagation();
  });
  menu.showPopover();
  const place = button.getBoundingClientRect();
  menu.style.left = `${Math.max(8, Math.min(place.left, innerWidth - menu.offsetWidth - 8))}px`;
  const isBelow = place.bottom + menu.offsetHeight + 8 < innerHeight;
  menu.style.top = `${isBelow ? place.bottom + 4 : place.top - menu.offsetHeight - 4}px`;
  button.setAttribute("aria-expanded", "true");
  menu.firstElementChild.focus();
}
