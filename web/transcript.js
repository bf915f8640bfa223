/** The conversation as it is shown: an element an item, made when it comes, changed in place. */

import { announce, eachFrame, h, icon, shorten } from "./dom.js";
import { makeView, outcomeOf } from "./items.js";

/** Nearer to the end than this, and what comes is scrolled to. In pixels. */
const NEAR_END = 80;
/** Of an answer that is read out. */
const MAX_READ_OUT = 1_200;

/** More than this, and the oldest go, unless somebody is among them: each costs time in each frame. */
const MAX_ITEMS = 400;
const KEPT_ITEMS = 200;

/** @param {HTMLElement} element */
function sizeOf(element) {
  return `${element.clientWidth} ${element.clientHeight}`;
}

export class Transcript {
  /**
   * @param {HTMLElement} scroller
   * @param {{onAnswer: (askId: string, answer: any) => Promise<void>, onFork: (messageId: string) => void,
   *   onOpen: (sessionId: string) => void, onOlder: () => Promise<void>}} actions
   */
  constructor(scroller, actions) {
    this.scroller = scroller;
    this.actions = actions;
    this.log = h("div.log", { role: "log", "aria-label": "Conversation", "aria-live": "off" });
    this.older = h(
      "button.older",
      { type: "button", hidden: true, click: () => this.loadOlder() },
      "Show earlier messages",
    );
    this.status = h(
      "p.working",
      { hidden: true },
      h("span.dots", { "aria-hidden": "true" }, h("i"), h("i"), h("i")),
      h("span.working-text"),
    );
    this.latest = h(
      "button.latest",
      {
        type: "button",
        hidden: true,
        "aria-label": "Go to the latest message",
        click: () => this.toEnd(),
      },
      icon("down"),
    );
    scroller.append(h("div.column", null, this.older, this.log, this.status));
    scroller.parentElement?.append(this.latest);
    /** @type {any} */
    this.conversation = null;
    /** @type {Map<string, any>} */
    this.views = new Map();
    this.isAtEnd = true;
    this.size = sizeOf(scroller);
    scroller.addEventListener(
      "scroll",
      () => {
        // The window has become another, and the lines with it: that was no reader.
        if (this.size !== sizeOf(scroller)) return;
        this.isAtEnd =
          scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END;
        this.latest.hidden = this.isAtEnd;
      },
      { passive: true },
    );
    this.schedule = eachFrame(() => this.render());
    new ResizeObserver(() => this.isAtEnd && this.toEnd()).observe(this.log);
    new ResizeObserver(() => {
      this.size = sizeOf(scroller);
      if (this.isAtEnd) this.toEnd();
    }).observe(scroller);
  }

  /** @param {any} conversation The one to show from now on; null is none. */
  show(conversation) {
    this.conversation = conversation;
    this.views.clear();
    this.log.replaceChildren();
    this.older.hidden = true;
    this.status.hidden = true;
    this.isAtEnd = true;
    this.latest.hidden = true;
    this.wasBusy = false;
    this.schedule();
  }

  toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  async loadOlder() {
    const before = this.scroller.scrollHeight - this.scroller.scrollTop;
    this.older.disabled = true;
    try {
      await this.actions.onOlder();
      this.render();
      this.scroller.scrollTop = this.scroller.scrollHeight - before;
    } catch {
      // Said elsewhere; the button is there still.
    } finally {
      this.older.disabled = false;
    }
  }

  render() {
    const conversation = this.conversation;
    if (!conversation) return;
    if (this.isAtEnd && conversation.items.length > MAX_ITEMS) conversation.trim(KEPT_ITEMS);
    const { items, isMoved } = conversation.takeChanges();
    for (const item of items) this.views.get(item.key)?.update(item);
    if (isMoved) this.arrange(conversation.items);
    this.older.hidden = !conversation.hasMore || conversation.isReplaying;
    this.showStatus(conversation);
    if (this.isAtEnd) this.toEnd();
    if (!conversation.isReplaying) this.tell(conversation, items);
  }

  /** @param {any[]} items */
  arrange(items) {
    const keys = new Set(items.map((item) => item.key));
    for (const [key, view] of this.views) {
      if (!keys.has(key)) {
        view.element.remove();
        this.views.delete(key);
      }
    }
    /** @type {Element?} */
    let place = this.log.firstElementChild;
    for (const item of items) {
      let view = this.views.get(item.key);
      if (!view) {
        view = makeView(item, this.actions);
        view.update(item);
        this.views.set(item.key, view);
      }
      if (view.element === place) place = place?.nextElementSibling ?? null;
      else this.log.insertBefore(view.element, place);
    }
  }

  /** @param {any} conversation */
  showStatus(conversation) {
    const isBusy = conversation.turnId !== null;
    this.status.hidden = !isBusy || conversation.isWriting || conversation.isAsked;
    this.status.lastElementChild.textContent = conversation.isToolRunning
      ? "Using a tool"
      : "Thinking";
    this.log.setAttribute("aria-busy", String(isBusy && !conversation.isAsked));
  }

  /**
   * Read out what is worth hearing: that it began, what was asked, and the whole answer, once.
   * @param {any} conversation @param {Set<any>} changed
   */
  tell(conversation, changed) {
    const isBusy = conversation.turnId !== null;
    if (isBusy && !this.wasBusy) announce("The agent is answering");
    for (const item of changed) {
      if (item.kind === "ask" && item.state === "open")
        announce(`The agent asks: ${item.ask.title}`);
    }
    if (!isBusy && this.wasBusy) {
      const end = conversation.items.findLast((/** @type {any} */ item) => item.kind === "end");
      const said = conversation.items.filter(
        (/** @type {any} */ item) =>
          item.kind === "message" &&
          item.role === "assistant" &&
          item.form === "text" &&
          item.turnId === end?.turnId,
      );
      const text = said
        .map(
          (/** @type {any} */ item) =>
            this.views.get(item.key)?.element.querySelector(".markdown")?.textContent ?? "",
        )
        .join(" ");
      announce(end?.outcome === "completed" || !end ? shorten(text, MAX_READ_OUT) : outcomeOf(end));
    }
    this.wasBusy = isBusy;
  }

  /** Move the focus from message to message. @param {number} step */
  moveFocus(step) {
    const messages = [...this.log.querySelectorAll("article.message")];
    const here = messages.findIndex((message) => message.contains(document.activeElement));
    const next = here < 0 ? (step < 0 ? messages.length - 1 : 0) : here + step;
    messages[Math.max(0, Math.min(next, messages.length - 1))]?.focus();
  }
}
