/** The page: what is open, who is asked for it, and which view shows what. */

import { Client } from "./trialogue.js";
import { Composer, EMPTY, join } from "./composer.js";
import { Conversation } from "./conversation.js";
import { askCredential, readCredential, setUpDialogs, showShortcuts } from "./dialogs.js";
import { announce, byId, eachFrame, h, icon } from "./dom.js";
import { Sessions } from "./sessions.js";
import { nameOf, Sidebar } from "./sidebar.js";
import { Transcript } from "./transcript.js";

/** Messages of a session that are fetched at a time. */
const PAGE = 40;
const TOAST_MS = 8_000;
const ENDED = {
  closed: "This session is closed.",
  expired: "This session has expired.",
  deleted: "This session was deleted.",
};

/** @returns {string} Beside the page, wherever that is. */
function serverUrl() {
  const url = new URL("v1/ws", document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

class App {
  constructor() {
    /** @type {string?} */
    this.sessionId = null;
    /** @type {Conversation?} */
    this.conversation = null;
    /** @type {any} */
    this.subscription = null;
    this.isStopping = false;
    /** What was written in each session and not sent. @type {Map<string, import("./composer.js").Draft>} */
    this.drafts = new Map();
    this.client = new Client({
      url: serverUrl(),
      auth: readCredential(),
      client: { name: "trialogue-web" },
    });
    this.sessions = new Sessions(this.client, {
      onChange: () => this.showSoon(),
      onOpen: (sessionId) => {
        this.go(sessionId);
        this.composer.focus();
      },
      onGone: (sessionId) => {
        this.drafts.delete(sessionId);
        if (this.sessionId === sessionId) this.go(null);
      },
      onError: (text) => this.toast(text),
    });
    this.transcript = new Transcript(byId("scroller"), {
      onAnswer: (askId, answer) =>
        this.client.call("ask.answer", { sessionId: this.sessionId, askId, answer }),
      onFork: (messageId) => this.fork(messageId),
      onOpen: (sessionId) => this.go(sessionId),
      onOlder: () => this.loadOlder(),
    });
    this.sidebar = new Sidebar({
      onNew: () => this.go(null),
      onMore: () => this.sessions.more(),
      onSearch: () => this.search(),
      onMenu: (session, button) => this.sessions.openMenu(session, button),
    });
    this.composer = new Composer({
      onSend: (draft, whenBusy) => this.send(draft, whenBusy),
      onStop: () => this.stop(),
      onWithdraw: (input) => this.withdraw(input).catch(() => {}), // it was said
      onFork: () => this.fork(),
      onProblem: (text) => this.toast(text),
      maxBytes: () => this.client.hello?.limits.maxFrameBytes ?? 0,
    });
    this.showSoon = eachFrame(() => this.show());
  }

  start() {
    setUpDialogs();
    this.setUpButtons();
    this.client.addEventListener("state", (event) =>
      this.takeState(/** @type {CustomEvent} */ (event).detail),
    );
    addEventListener("hashchange", () => this.route());
    addEventListener("online", () => this.client.wake());
    addEventListener("keydown", (event) => this.press(event));
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return;
      this.client.wake();
      this.sessions.refresh();
    });
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
      if (session) this.sessions.openMenu(session, byId("session-menu"));
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
    this.sessions.refresh();
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

  /** @param {string} text */
  toast(text) {
    const toast = h("p.toast", null, text);
    byId("toasts").append(toast);
    setTimeout(() => toast.remove(), TOAST_MS);
  }

  /** Several agents are a choice. */
  async listAgents() {
    try {
      const { agents } = await this.client.call("server.describe");
      const select = /** @type {HTMLSelectElement} */ (byId("agent"));
      const chosen = select.value;
      select.replaceChildren(
        ...agents.map((/** @type {any} */ agent) => h("option", { value: agent.name }, agent.name)),
      );
      if (agents.some((/** @type {any} */ agent) => agent.name === chosen)) select.value = chosen;
      byId("agent-choice").hidden = agents.length < 2;
    } catch {
      // Then there is no choice.
    }
  }

  /** Names are looked through here, so all of them have to be here. */
  async search() {
    this.showSoon();
    const isSearching = () => this.sidebar.search.value !== "";
    while (this.sessions.hasMore && isSearching() && (await this.sessions.more()));
  }

  /** @param {string} [atMessageId] */
  fork(atMessageId) {
    const session = this.conversation?.session;
    if (session) this.sessions.fork(session, atMessageId).catch(() => {}); // it was said
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
    this.drafts.set(this.sessionId ?? "", this.composer.draft);
    this.subscription?.close();
    this.subscription = null;
    this.conversation = null;
    this.sessionId = sessionId;
    this.isStopping = false;
    this.composer.put(this.drafts.get(sessionId ?? "") ?? EMPTY);
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
          if (event.type === "turn.ended" && conversation === this.conversation)
            this.isStopping = false;
          if (event.type === "session.deleted") this.sessions.forget(sessionId);
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
    const { messages, hasMore } = await this.sessions.call("message.list", {
      sessionId: this.sessionId,
      limit: PAGE,
      ...(before ? { before } : {}),
    });
    conversation.prepend(messages, hasMore);
  }

  /** @param {import("./composer.js").Draft} draft @param {string} [whenBusy] */
  async send(draft, whenBusy) {
    const { text, files } = draft;
    if (!this.conversation) {
      const agent = /** @type {HTMLSelectElement} */ (byId("agent")).value;
      const session = await this.sessions.create(text.trim() ? text : files[0].name, agent);
      this.drafts.set(session.id, this.composer.draft); // what was written meanwhile
      this.go(session.id);
      this.drafts.delete("");
    }
    const { conversation, sessionId } = this;
    if (!conversation) return;
    const attachments = files.length ? { attachments: files } : {};
    const item = conversation.addUnsent(text, files);
    this.transcript.isAtEnd = true;
    // Who writes on need not wait for the server.
    this.sessions
      .call("message.send", {
        sessionId,
        content: text,
        ...attachments,
        ...(whenBusy ? { whenBusy } : {}),
      })
      .then(
        (answer) => {
          conversation.settleUnsent(item, answer.messageId);
          this.sessions.tellOthers();
        },
        () => {
          // Nothing that was written is lost, whatever was written or opened meanwhile.
          conversation.settleUnsent(item);
          if (conversation === this.conversation)
            this.composer.put(join(draft, this.composer.draft));
          else this.drafts.set(sessionId, join(draft, this.drafts.get(sessionId) ?? EMPTY));
        },
      );
  }

  async stop() {
    const turnId = this.conversation?.turnId;
    if (!turnId || this.isStopping) return;
    this.isStopping = true;
    this.showSoon();
    try {
      await this.sessions.call("turn.cancel", { sessionId: this.sessionId, turnId });
    } catch {
      this.isStopping = false;
    }
    this.showSoon();
  }

  /** @param {any} input */
  async withdraw(input) {
    await this.sessions.call("input.withdraw", {
      sessionId: this.sessionId,
      inputId: input.inputId,
    });
    if (this.composer.isEmpty)
      this.composer.put({ text: input.content, files: input.attachments ?? [] });
    this.composer.focus();
  }

  // -- what is seen -----------------------------------------------------------------------

  show() {
    const { conversation } = this;
    const session = conversation?.session ?? null;
    if (session && conversation && conversation.state !== "deleted") {
      const known = this.sessions.byId.get(session.id);
      this.sessions.byId.set(session.id, {
        ...session,
        status: statusOf(conversation),
        lastActivityAt: known?.lastActivityAt ?? session.lastActivityAt,
      });
    }
    this.sidebar.show(this.sessions.sorted, this.sessionId, this.sessions.hasMore);
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
      isBusy: Boolean(conversation?.turnId),
      isStopping: this.isStopping,
      queue: conversation?.queue ?? [],
      endedText:
        conversation && conversation.state !== "open"
          ? ENDED[conversation.state]
          : mayWrite
            ? ""
            : "Your credential allows to read, and not to write.",
    });
    byId("fork-ended").hidden = conversation?.state === "deleted" || !mayWrite;
  }

  /** @param {boolean} [isOpen] */
  toggleSidebar(isOpen) {
    const root = document.documentElement;
    const isNarrow = matchMedia("(max-width: 46rem)").matches;
    // Wide, it is there unless it was put away; narrow, it is away unless it was asked for.
    if (isNarrow) root.dataset.drawer = String(isOpen ?? root.dataset.drawer !== "true");
    else if (isOpen === undefined)
      root.dataset.sidebar = root.dataset.sidebar === "away" ? "there" : "away";
    const isThere = isNarrow ? root.dataset.drawer === "true" : root.dataset.sidebar !== "away";
    byId("sidebar-toggle").setAttribute("aria-expanded", String(isThere));
    byId("shade").hidden = !(isNarrow && isThere);
    byId("sidebar").inert = !isThere;
    if (isNarrow && isThere) byId("new-session").focus();
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    if (document.querySelector("dialog[open], [popover]:popover-open")) return;
    const isTyping =
      /** @type {HTMLElement} */ (event.target).closest?.("input, textarea, select") !== null;
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

/** What the list says of the open one, which knows better. @param {Conversation} conversation */
function statusOf(conversation) {
  if (conversation.state !== "open") return conversation.state;
  if (!conversation.turnId) return "idle";
  return conversation.isAsked ? "waiting" : "running";
}

const app = new App();
app.start();
if (matchMedia("(max-width: 46rem)").matches) app.toggleSidebar(false);
matchMedia("(max-width: 46rem)").addEventListener("change", () => app.toggleSidebar(false));
