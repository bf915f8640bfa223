/** The sessions that there are: found, opened, named, closed, deleted. */

import { byId, h, iconButton } from "./dom.js";

const DAY_MS = 24 * 3600 * 1000;
/** @type {Record<string, string>} */
const STATES = {
  running: "Answering",
  waiting: "Waits for an answer of yours",
  closed: "Closed",
  expired: "Expired",
};

export class Sidebar {
  /**
   * @param {{onNew: () => void, onMore: () => void, onSearch: (text: string) => void,
   *   onMenu: (session: any, button: HTMLElement) => void}} actions
   */
  constructor(actions) {
    this.actions = actions;
    this.list = byId("session-list");
    this.search = /** @type {HTMLInputElement} */ (byId("search"));
    this.more = byId("more-sessions");
    byId("new-session").addEventListener("click", () => actions.onNew());
    this.more.addEventListener("click", () => actions.onMore());
    this.search.addEventListener("input", () => actions.onSearch(this.search.value));
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.search.value) {
        event.stopPropagation();
        this.search.value = "";
        actions.onSearch("");
      }
    });
    this.shown = "";
    /** @type {Map<string, any>} */
    this.entries = new Map();
    /** @type {Map<string, HTMLElement>} */
    this.headings = new Map();
  }

  /** @param {any[]} sessions Newest first. @param {string?} current @param {boolean} hasMore */
  show(sessions, current, hasMore) {
    this.more.hidden = !hasMore;
    const wanted = this.search.value.trim().toLocaleLowerCase();
    const found = wanted
      ? sessions.filter((session) => nameOf(session).toLocaleLowerCase().includes(wanted))
      : sessions;
    // This is asked for in every frame of an answer.
    const version = [
      current,
      wanted,
      new Date().toDateString(),
      ...found.map(
        (session) => `${session.id} ${session.status} ${session.name} ${session.lastActivityAt}`,
      ),
    ].join("\n");
    if (version === this.shown) return;
    this.shown = version;
    const groups = new Map();
    for (const session of found) {
      const name = groupOf(session.lastActivityAt);
      groups.set(name, [...(groups.get(name) ?? []), session]);
    }
    // What is there already stays the same element: somebody may be about to click on it.
    const wantedNodes = [...groups].flatMap(([name, members]) => [
      this.heading(name),
      ...members.map((/** @type {any} */ session) => this.entry(session, session.id === current)),
    ]);
    if (!found.length)
      wantedNodes.push(
        this.heading(wanted ? "No session has this in its name" : "No sessions yet"),
      );
    const places = new Set(wantedNodes);
    for (const node of [...this.list.children]) if (!places.has(node)) node.remove();
    wantedNodes.forEach((node, index) => {
      const here = this.list.children[index];
      if (here !== node) this.list.insertBefore(node, here ?? null);
    });
  }

  /** @param {string} name */
  heading(name) {
    let heading = this.headings.get(name);
    if (!heading) this.headings.set(name, (heading = h("li.group", null, h("h2", null, name))));
    return heading;
  }

  /** @param {any} session @param {boolean} isCurrent */
  entry(session, isCurrent) {
    let entry = this.entries.get(session.id);
    if (!entry) this.entries.set(session.id, (entry = this.makeEntry(session.id)));
    entry.session = session;
    const name = nameOf(session);
    const state = STATES[session.status] ?? "";
    entry.name.textContent = name;
    entry.link.title = name;
    entry.menu.setAttribute("aria-label", `Actions for ${name}`);
    if (isCurrent) entry.link.setAttribute("aria-current", "page");
    else entry.link.removeAttribute("aria-current");
    entry.dot.hidden = !state;
    entry.dot.className = `dot is-${session.status}`;
    entry.dot.title = state;
    entry.state.textContent = `${state}: `;
    return entry.element;
  }

  /** @param {string} id */
  makeEntry(id) {
    const state = h("span.visually-hidden");
    const dot = h("span.dot", null, state);
    const name = h("span.session-name");
    const link = h("a", { href: `#/s/${encodeURIComponent(id)}` }, dot, name);
    /** @type {any} */
    const entry = { state, dot, name, link };
    entry.menu = iconButton("more", "", () => this.actions.onMenu(entry.session, entry.menu));
    entry.menu.title = "Rename, fork, close, delete";
    entry.menu.setAttribute("aria-haspopup", "menu");
    entry.element = h("li", null, link, entry.menu);
    return entry;
  }
}

/** @param {any} session */
export function nameOf(session) {
  return session?.name || "Unnamed session";
}

/** @param {string} timestamp */
function groupOf(timestamp) {
  const today = new Date().setHours(0, 0, 0, 0);
  const then = Date.parse(timestamp);
  if (then >= today) return "Today";
  if (then >= today - DAY_MS) return "Yesterday";
  if (then >= today - 6 * DAY_MS) return "This week";
  return "Earlier";
}
