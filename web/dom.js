/**
 * The few functions by which the page makes what it shows. All text goes in as text: nothing here,
 * nor anywhere in the page, makes elements of a string.
 */

/**
 * Make an element.
 * @param {string} tag `name.class.class`
 * @param {Record<string, any> | null} [attributes] A function is a listener; null, undefined and
 *   false are no attribute, true is an empty one.
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {any}
 */
export function h(tag, attributes, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(key, String(value));
    }
  }
  element.append(
    ...children.filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** Drawn on 16 × 16, in strokes. @type {Record<string, string>} */
const ICONS = {
  plus: "M8 3v10M3 8h10",
  menu: "M2.5 4.5h11M2.5 8h11M2.5 11.5h11",
  more: "M3.5 8h.01M8 8h.01M12.5 8h.01",
  send: "M8 13V3M3.5 7.5 8 3l4.5 4.5",
  stop: "M4.5 4.5h7v7h-7z",
  close: "m4 4 8 8M12 4l-8 8",
  copy: "M6 6h7v7H6zM10 3H3v7",
  clip: "M12.5 7.5 7.6 12.4a3 3 0 0 1-4.2-4.2l5.3-5.3a2 2 0 0 1 2.8 2.8l-5.2 5.2a1 1 0 0 1-1.4-1.4l4.5-4.5",
  done: "m3 8.5 3.5 3.5L13 4.5",
  fork: "M4.5 5.5v5M11.5 5.5c0 3.2-7 1.6-7 5M4.5 5.5a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3zM11.5 5.5a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3zM4.5 13.5a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3z",
  search: "M7 11.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9zM10.5 10.5 14 14",
  down: "M8 3v10M3.5 8.5 8 13l4.5-4.5",
  chevron: "m6 4 4 4-4 4",
  tool: "M10.5 2.5a3.5 3.5 0 0 0-3.3 4.7l-4.7 4.6 1.7 1.7 4.6-4.7a3.5 3.5 0 0 0 4.5-4.3l-2 2-1.8-1.8 2-2a3.5 3.5 0 0 0-1-.2z",
  thought: "M8 2.5a4 4 0 0 0-2 7.5v1.5h4V10a4 4 0 0 0-2-7.5zM6.5 13.5h3",
  ask: "M6 6a2 2 0 1 1 2.6 1.9c-.4.2-.6.5-.6 1v.6M8 12v.01",
  key: "M10.5 9a3.5 3.5 0 1 0-3.4-2.6L2.5 11v2.5H5V12h1.5v-1.5L8 9c.7.3 1.6 0 2.5 0zM11.2 5v.01",
  keyboard: "M1.5 4.5h13v7h-13zM4 7h.01M6.5 7h.01M9 7h.01M11.5 7h.01M5.5 9.5h5",
  light:
    "M8 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM8 1.5v1M8 13.5v1M1.5 8h1M13.5 8h1M3.4 3.4l.7.7M11.9 11.9l.7.7M3.4 12.6l.7-.7M11.9 4.1l.7-.7",
  dark: "M13 9.5A5.5 5.5 0 0 1 6.5 3a5.5 5.5 0 1 0 6.5 6.5z",
  auto: "M8 1.5a6.5 6.5 0 1 1 0 13 6.5 6.5 0 0 1 0-13zM8 3v10A5 5 0 0 1 8 3z",
};

/** @param {string} name @returns {SVGElement} Of no meaning to who does not see it. */
export function icon(name) {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", `icon icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(ns, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/**
 * A button that shows an icon, and says what it does.
 * @param {string} name @param {string} label @param {(event: Event) => void} click @param {string} [kind]
 * @returns {HTMLButtonElement}
 */
export function iconButton(name, label, click, kind = "quiet") {
  return h(
    `button.icon-button.${kind}`,
    { type: "button", "aria-label": label, title: label, click },
    icon(name),
  );
}

/** @template {HTMLElement} [T=any] @param {string} id @returns {T} */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element ${id}`);
  return /** @type {T} */ (found);
}

/** Copy a text, also where the page is not encrypted. @param {string} text */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = h("textarea.visually-hidden", { "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** A button that copies, and shows that it did. @param {() => string} read */
export function copyButton(read, label = "Copy") {
  const button = iconButton("copy", label, async () => {
    await copyText(read());
    button.replaceChildren(icon("done"));
    announce("Copied");
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

/** Say something to who listens instead of looking. @param {string} text */
export function announce(text) {
  const status = byId("announcer");
  // The same text a second time is news only if it is another node.
  status.replaceChildren(h("p", null, text));
}

/** Run something once in the next frame, however often it is asked for. @param {() => void} run */
export function eachFrame(run) {
  let isDue = false;
  return () => {
    if (isDue) return;
    isDue = true;
    // A page that is not looked at has no frames.
    const later = document.hidden
      ? (/** @type {() => void} */ f) => setTimeout(f, 200)
      : requestAnimationFrame;
    later(() => {
      isDue = false;
      run();
    });
  };
}

/** @param {string} text @param {number} length */
export function shorten(text, length) {
  const line = text.split(/\s+/).join(" ").trim();
  const points = Array.from(line.slice(0, 2 * length + 2));
  return points.length > length
    ? `${points
        .slice(0, length - 1)
        .join("")
        .trimEnd()}…`
    : line;
}

/** @param {any} value A JSON value; a text as it is. */
export function writeValue(value, indent = 0) {
  return typeof value === "string" ? value : (JSON.stringify(value, null, indent) ?? "");
}

/** @param {number} ms */
export function writeDuration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  return seconds < 60
    ? `${seconds.toFixed(1)} s`
    : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

const clockTime = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

/** When something was, as short as can be. @param {string} timestamp */
export function writeTime(timestamp) {
  const then = new Date(timestamp);
  if (Number.isNaN(then.getTime())) return "";
  return (then.toDateString() === new Date().toDateString() ? clockTime : date).format(then);
}
