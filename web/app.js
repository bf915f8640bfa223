/** The page: what is open, who is asked for it, and which view shows what. */

import { Client } from "./trialogue.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { askCredential, askName, confirm, openMenu, readCredential, setUpDialogs, showShortcuts } from "./dialogs.js";
import { announce, byId, eachFrame, h, icon, shorten } from "./dom.js";
import { nameOf, Sidebar } from "./sidebar.js";
import { Transcript } from "./transcript.js";

/** Messages of a session that are fetched at a time. */
const PAGE = 40;
/** Sessions likewise. */
const SESSIONS = 50;
/** Nobody tells us of other clients' sessions: they are asked for. */
const REFRESH_MS = 15_000;
/** Of a session's name, made of what was said first. */
const MAX_NAME = 60;
const TOAST_MS = 8_000;
const ENDED = {
  closed: "This session is closed.", expired: "This session has expired.", deleted: "This session was deleted.",
};

/** @returns {string} Beside the page, wherever that is. */
function serverUrl() {
  const url = new URL("v1/ws", document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

class App {
  constructor() {
    /** @type {Map<string, any>} */
    this.sessions = new Map();
    this.nextCursor = undefined;
    /** @type {string?} */
    this.sessionId = null;
    /** @type {Conversation?} */
    this.conversation = null;
    /** @type {any} */
    this.subscription = null;
    this.isStopping = false;
    /** What was written in each session and not sent. @type {Map<string, string>} */
    this.drafts = new Map();
    this.client = new Client({ url: serverUrl(), auth: readCredential(), client: { name: "trialogue-web" } });
    this.transcript = new Transcript(byId("scroller"), {
      onAnswer: (askId, answer) => this.client.call("ask.answer", { sessionId: this.sessionId, askId, answer }),
      onFork: (messageId) => this.fork(this.sessionId, messageId),
      onOpen: (sessionId) => this.go(sessionId),
      onOlder: () => this.loadOlder(),
    });
    this.sidebar = new Sidebar({
      onNew: () => this.go(null),
      onMore: () => this.listSessions(true),
      onSearch: () => this.search(),
      onMenu: (session, button) => this.openSessionMenu(session, button),
    });
    this.composer = new Composer({
      onSend: (text, whenBusy) => this.send(text, whenBusy),
      onStop: () => this.stop(),
      onWithdraw: (input) => this.withdraw(input),
      onFork: () => this.fork(this.sessionId),
    });
    this.showSoon = eachFrame(() => this.show());
    this.otherTabs = new BroadcastChannel("trialogue");
  }

  start() {
    setUpDialogs();
    this.setUpButtons();
    this.client.addEventListener("state", (event) => this.takeState(/** @type {CustomEvent} */ (event).detail));
    this.otherTabs.addEventListener("message", () => this.listSessions());
    addEventListener("hashchange", () => this.route());
    addEventListener("online", () => this.client.wake());
    addEventListener("keydown", (event) => this.press(event));
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return;
      this.client.wake();
      this.listSessions();
    });
    setInterval(() => !document.hidden && this.listSessions(), REFRESH_MS);
    this.connect();
    this.route();
  }

  setUpButtons() {
    for (const element of document.querySelectorAll("[data-icon]")) {
      element.prepend(icon(/** @type {HTMLElement} */ (element).dataset.icon ?? ""));
    }
    const sidebar = byId("sidebar-toggle");
    sidebar.addEventListener("click", () => this.toggleSidebar());
    byId("shade").addEventListener("click", () => this.toggleSidebar(false));
    byId("skip").addEventListener("click", () => this.composer.focus());
    byId("retry").addEventListener("click", () => {
      if (this.client.state === "disconnected") this.connect();
      else this.client.wake();
    });
    byId("open-shortcuts").addEventListener("click", showShortcuts);
    byId("open-credential").addEventListener("click", () => this.askCredential(""));
    byId("session-menu").addEventListener("click", () => {
      const session = this.conversation?.session;
      if (session) this.openSessionMenu(session, byId("session-menu"));
    });
    const theme = byId("theme");
    const themes = /** @type {any} */ (globalThis).trialogueTheme;
    const showTheme = (/** @type {string} */ name) => {
      theme.replaceChildren(icon(name));
      theme.title = `Colours: ${name === "auto" ? "as the system has them" : name}`;
      theme.setAttribute("aria-label", theme.title);
    };
    showTheme(themes.current);
    theme.addEventListener("click", () => {
      const name = themes.next();
      showTheme(name);
      announce(theme.title);
    });
  }

  // -- the connection ---------------------------------------------------------------------

  async connect() {
    try {
      await this.client.connect();
    } catch {
      return; // `takeState` says so
    }
    this.listSessions();
    this.listAgents();
  }

  /** @param {any} change */
  takeState({ state, error }) {
    const banner = byId("banner");
    banner.hidden = state === "connected" || (state === "connecting" && !error);
    const isOver = state === "disconnected";
    byId("banner-text").textContent = isOver ? "Not connected." : "Connecting again …";
    document.documentElement.dataset.state = state;
    if (state === "connected" && this.wasLost) announce("Connected again");
    else if (state === "reconnecting" && !this.wasLost) announce("The connection was lost");
    this.wasLost = state === "reconnecting";
    if (!isOver || !error?.code) return;
    if (error.code === "UNSUPPORTED_VERSION") this.toast(error.message);
    else this.askCredential(error.message);
  }

  /** @param {string} why */
  async askCredential(why) {
    const isNew = await askCredential(why);
    if (!isNew) return;
    const credential = readCredential();
    if (credential && this.client.state === "connected") {
      try {
        await this.client.renew(credential);
        this.showSoon();
        return;
      } catch {
        // Somebody else's, perhaps: then it is another connection.
      }
    }
    this.client.close();
    this.client.auth = credential;
    this.connect();
    // What the old one could see may not be there for the new one.
    const sessionId = this.sessionId;
    this.open(null);
    this.sessions.clear();
    this.open(sessionId);
  }

  /**
   * Carry out a request, and say it if it fails.
   * @param {string} method @param {object} params
   */
  async call(method, params) {
    try {
      return await this.client.call(method, params);
    } catch (error) {
      this.toast(/** @type {Error} */ (error).message);
      throw error;
    }
  }

  /** @param {string} text */
  toast(text) {
    const toast = h("p.toast", null, text);
    byId("toasts").append(toast);
    setTimeout(() => toast.remove(), TOAST_MS);
  }

  // -- sessions ---------------------------------------------------------------------------

  async listSessions(isMore = false) {
    if (this.client.state !== "connected") return;
    try {
      const params = { limit: SESSIONS, ...(isMore && this.nextCursor ? { cursor: this.nextCursor } : {}) };
      const answer = await this.client.call("session.list", params);
      if (!isMore) {
        // What came by "show more" stays; of the newest page we know which are gone.
        const oldest = answer.sessions.at(-1)?.lastActivityAt ?? "";
        for (const [id, session] of this.sessions) {
          if (!answer.nextCursor || session.lastActivityAt >= oldest) this.sessions.delete(id);
        }
      }
      for (const session of answer.sessions) this.sessions.set(session.id, session);
      if (isMore || this.nextCursor === undefined || this.sessions.size <= SESSIONS) this.nextCursor = answer.nextCursor;
      this.showSoon();
    } catch {
      // The next time.
    }
  }

  /** Names are looked through here, so all of them have to be here. */
  async search() {
    this.showSoon();
    while (this.nextCursor && this.sidebar.search.value) await this.listSessions(true);
  }

  async listAgents() {
    try {
      const { agents } = await this.client.call("server.describe");
      const select = /** @type {HTMLSelectElement} */ (byId("agent"));
      const chosen = select.value;
      select.replaceChildren(...agents.map((/** @type {any} */ agent) => h("option", { value: agent.name }, agent.name)));
      if (agents.some((/** @type {any} */ agent) => agent.name === chosen)) select.value = chosen;
      byId("agent-choice").hidden = agents.length < 2;
    } catch {
      // Then there is no choice.
    }
  }

  /** Of something that other tabs of ours show, too. */
  tellOthers() {
    this.otherTabs.postMessage("sessions");
    this.listSessions();
  }

  /** @param {any} session @param {HTMLElement} button */
  openSessionMenu(session, button) {
    const isOver = session.status === "closed" || session.status === "expired";
    openMenu(button, [
      ...(isOver ? [] : [{ label: "Rename …", run: () => this.rename(session) }]),
      { label: "Fork", run: () => this.fork(session.id) },
      ...(isOver ? [] : [{ label: "Close …", run: () => this.closeSession(session) }]),
      { label: "Delete …", isDanger: true, run: () => this.deleteSession(session) },
    ]);
  }

  /** @param {any} session */
  async rename(session) {
    const name = await askName(session.name ?? "");
    if (name === null) return;
    this.keep(await this.call("session.update", { sessionId: session.id, name: name.toWellFormed() }));
    this.tellOthers();
  }

  /** @param {any} session */
  async closeSession(session) {
    const text = "What runs is stopped, and nobody can write in it any more. It can still be read and forked.";
    if (!(await confirm(`Close “${nameOf(session)}”?`, text, "Close"))) return;
    this.keep(await this.call("session.close", { sessionId: session.id }));
    this.tellOthers();
  }

  /** @param {any} session */
  async deleteSession(session) {
    if (!(await confirm(`Delete “${nameOf(session)}”?`, "All that was said in it will be gone.", "Delete"))) return;
    await this.call("session.delete", { sessionId: session.id });
    this.sessions.delete(session.id);
    this.drafts.delete(session.id);
    if (this.sessionId === session.id) this.go(null);
    this.tellOthers();
  }

  /** @param {string?} sessionId @param {string} [atMessageId] */
  async fork(sessionId, atMessageId) {
    if (!sessionId) return;
    const name = this.sessions.get(sessionId)?.name ?? this.conversation?.session?.name;
    const session = await this.call("session.fork", { sessionId, ...(atMessageId ? { atMessageId } : {}) });
    this.keep(session);
    this.go(session.id);
    announce("This is another session now, with what was said up to there");
    if (name) this.keep(await this.call("session.update", { sessionId: session.id, name: shorten(`${name} (fork)`, MAX_NAME) }));
    this.tellOthers();
    this.composer.focus();
  }

  /** @param {any} session */
  keep(session) {
    this.sessions.set(session.id, session);
    this.showSoon();
  }

  // -- the open one -----------------------------------------------------------------------

  route() {
    const match = /^#\/s\/([^/]+)$/.exec(location.hash);
    let sessionId = null;
    try {
      sessionId = match ? decodeURIComponent(match[1]) : null;
    } catch {
      // A broken link leads to a new session.
    }
    if (sessionId !== this.sessionId || !this.hasRouted) this.open(sessionId);
    this.hasRouted = true;
  }

  /** Open a session, or the page for a new one; "back" leads back. @param {string?} sessionId */
  go(sessionId) {
    const hash = sessionId ? `#/s/${encodeURIComponent(sessionId)}` : "#/";
    if (location.hash !== hash) history.pushState(null, "", hash);
    this.open(sessionId);
    this.toggleSidebar(false);
    if (!sessionId) this.composer.focus();
  }

  /** @param {string?} sessionId */
  open(sessionId) {
    this.drafts.set(this.sessionId ?? "", this.composer.input.value);
    this.subscription?.close();
    this.subscription = null;
    this.conversation = null;
    this.sessionId = sessionId;
    this.isStopping = false;
    this.composer.write(this.drafts.get(sessionId ?? "") ?? "");
    if (sessionId) {
      const conversation = (this.conversation = new Conversation(() => {
        this.transcript.schedule();
        this.showSoon();
      }));
      this.subscription = this.client.subscribe(sessionId, {
        tail: PAGE,
        onStart: (/** @type {any} */ answer) => conversation.start(answer),
        onEvent: (/** @type {any} */ event, /** @type {any} */ subscription) => {
          conversation.take(event, subscription);
          if (event.type === "turn.ended" && conversation === this.conversation) this.isStopping = false;
          if (event.type === "session.deleted") this.sessions.delete(sessionId);
        },
        onError: (/** @type {Error} */ error) => {
          this.toast(error.message);
          if (conversation === this.conversation) this.go(null);
        },
      });
    }
    this.transcript.show(this.conversation);
    this.showSoon();
  }

  async loadOlder() {
    const conversation = this.conversation;
    if (!conversation) return;
    const before = conversation.firstMessageId;
    const { messages, hasMore } = await this.call("message.list", {
      sessionId: this.sessionId, limit: PAGE, ...(before ? { before } : {}),
    });
    conversation.prepend(messages, hasMore);
  }

  /** @param {string} text @param {string} [whenBusy] */
  async send(text, whenBusy) {
    if (!this.conversation) {
      const agent = /** @type {HTMLSelectElement} */ (byId("agent")).value;
      const session = await this.call("session.create", {
        name: shorten(text, MAX_NAME), ...(agent ? { config: { agent } } : {}),
      });
      this.keep(session);
      this.drafts.set(session.id, this.composer.input.value); // what was written meanwhile
      this.go(session.id);
      this.drafts.delete("");
    }
    const { conversation, sessionId } = this;
    if (!conversation) return;
    const item = conversation.addUnsent(text);
    this.transcript.isAtEnd = true;
    // Who writes on need not wait for the server.
    this.call("message.send", { sessionId, content: text, ...(whenBusy ? { whenBusy } : {}) }).then(
      (answer) => {
        conversation.settleUnsent(item, answer.messageId);
        this.tellOthers();
      },
      () => {
        conversation.settleUnsent(item);
        if (conversation === this.conversation && !this.composer.input.value) this.composer.write(text);
      },
    );
  }

  async stop() {
    const turnId = this.conversation?.turnId;
    if (!turnId || this.isStopping) return;
    this.isStopping = true;
    this.showSoon();
    try {
      await this.call("turn.cancel", { sessionId: this.sessionId, turnId });
    } catch {
      this.isStopping = false;
    }
    this.showSoon();
  }

  /** @param {any} input */
  async withdraw(input) {
    await this.call("input.withdraw", { sessionId: this.sessionId, inputId: input.inputId });
    if (!this.composer.input.value) this.composer.write(input.content);
    this.composer.focus();
  }

  // -- what is seen -----------------------------------------------------------------------

  show() {
    const { conversation } = this;
    const session = conversation?.session ?? null;
    if (session) {
      const status = conversation?.state !== "open" ? conversation?.state
        : conversation?.turnId ? (conversation.isAsked ? "waiting" : "running") : "idle";
      if (conversation?.state === "deleted") this.sessions.delete(session.id);
      else this.sessions.set(session.id, { ...this.sessions.get(session.id), ...session, status, lastActivityAt: this.sessions.get(session.id)?.lastActivityAt ?? session.lastActivityAt });
    }
    const sessions = [...this.sessions.values()].filter((one) => !one.parent)
      .sort((a, b) => (a.lastActivityAt < b.lastActivityAt ? 1 : a.lastActivityAt > b.lastActivityAt ? -1 : 0));
    this.sidebar.show(sessions, this.sessionId, this.nextCursor !== undefined);
    const name = this.sessionId ? (session ? nameOf(session) : "…") : "New session";
    byId("title").textContent = name;
    document.title = this.sessionId && session ? `${name} · Trialogue` : "Trialogue";
    byId("session-menu").hidden = !session || conversation?.state === "deleted";
    const agent = session?.config?.agent;
    byId("agent-name").hidden = !agent || byId("agent-choice").hidden; // of one there is nothing to tell
    byId("agent-name").textContent = agent ?? "";
    byId("welcome").hidden = this.sessionId !== null;
    byId("scroller").hidden = this.sessionId === null;
    const mayWrite = this.client.hello?.scopes?.includes("write") ?? true;
    this.composer.show({
      isBusy: Boolean(conversation?.turnId), isStopping: this.isStopping, queue: conversation?.queue ?? [],
      endedText: conversation && conversation.state !== "open" ? ENDED[conversation.state]
        : mayWrite ? "" : "Your credential allows to read, and not to write.",
    });
    byId("fork-ended").hidden = conversation?.state === "deleted" || !mayWrite;
  }

  /** @param {boolean} [isOpen] */
  toggleSidebar(isOpen) {
    const root = document.documentElement;
    const isNarrow = matchMedia("(max-width: 46rem)").matches;
    // Wide, it is there unless it was put away; narrow, it is away unless it was asked for.
    if (isNarrow) root.dataset.drawer = String(isOpen ?? root.dataset.drawer !== "true");
    else if (isOpen === undefined) root.dataset.sidebar = root.dataset.sidebar === "away" ? "there" : "away";
    const isThere = isNarrow ? root.dataset.drawer === "true" : root.dataset.sidebar !== "away";
    byId("sidebar-toggle").setAttribute("aria-expanded", String(isThere));
    byId("shade").hidden = !(isNarrow && isThere);
    byId("sidebar").inert = !isThere;
    if (isNarrow && isThere) byId("new-session").focus();
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    if (document.querySelector("dialog[open], [popover]:popover-open")) return;
    const isTyping = /** @type {HTMLElement} */ (event.target).closest?.("input, textarea, select") !== null;
    const isCommand = event.ctrlKey || event.metaKey;
    if (event.key === "Escape") {
      if (byId("shade").hidden === false) this.toggleSidebar(false);
      else if (this.conversation?.turnId) this.stop();
      else return;
    } else if (isCommand && event.key === "k") {
      if (byId("sidebar").inert) this.toggleSidebar();
      this.sidebar.search.focus();
    } else if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      this.transcript.moveFocus(event.key === "ArrowUp" ? -1 : 1);
    } else if (event.altKey && event.code === "KeyN") {
      this.go(null);
    } else if (event.altKey && event.code === "KeyB") {
      this.toggleSidebar();
    } else if (!isTyping && !isCommand && event.key === "/") {
      this.composer.focus();
    } else if (!isTyping && !isCommand && event.key === "?") {
      showShortcuts();
    } else {
      return;
    }
    event.preventDefault();
  }
}

const app = new App();
app.start();
if (matchMedia("(max-width: 46rem)").matches) app.toggleSidebar(false);
matchMedia("(max-width: 46rem)").addEventListener("change", () => app.toggleSidebar(false));
