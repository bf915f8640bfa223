/** The conversation as it is shown: an element an item, made when it comes, changed in place. */

import { askCard, askLine } from "./asks.js";
import { codeBlock, MarkdownView } from "./markdown.js";
import { announce, copyButton, eachFrame, h, icon, iconButton, shorten, writeDuration, writeTime, writeValue } from "./dom.js";

/** Nearer to the end than this, and what comes is scrolled to. In pixels. */
const NEAR_END = 80;
/** Of an answer that is read out. */
const MAX_READ_OUT = 1_200;
/** Of a tool's result that is shown. */
const MAX_RESULT = 20_000;
const NAMES = { user: "You", assistant: "Agent", system: "System" };
const CUT = { partial: "Stopped", interrupted: "Interrupted", error: "Failed" };
const CALLS = {
  pending: "Waiting", running: "Running", ok: "Done", error: "Failed", cancelled: "Cancelled", unknown: "Outcome unknown",
};

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
    this.older = h("button.older", { type: "button", hidden: true, click: () => this.loadOlder() }, "Show earlier messages");
    this.status = h("p.working", { hidden: true }, h("span.dots", { "aria-hidden": "true" }, h("i"), h("i"), h("i")), h("span.working-text"));
    this.latest = h("button.latest", { type: "button", hidden: true, "aria-label": "Go to the latest message", click: () => this.toEnd() }, icon("down"));
    scroller.append(h("div.column", null, this.older, this.log, this.status));
    scroller.parentElement?.append(this.latest);
    /** @type {any} */
    this.conversation = null;
    /** @type {Map<string, any>} */
    this.views = new Map();
    this.isAtEnd = true;
    scroller.addEventListener("scroll", () => {
      this.isAtEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END;
      this.latest.hidden = this.isAtEnd;
    }, { passive: true });
    this.schedule = eachFrame(() => this.render());
    new ResizeObserver(() => this.isAtEnd && this.toEnd()).observe(this.log);
    new ResizeObserver(() => this.isAtEnd && this.toEnd()).observe(scroller);
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
    } finally {
      this.older.disabled = false;
    }
  }

  render() {
    const conversation = this.conversation;
    if (!conversation) return;
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
        view = this.make(item);
        view.update(item);
        this.views.set(item.key, view);
      }
      if (view.element === place) place = place?.nextElementSibling ?? null;
      else this.log.insertBefore(view.element, place);
    }
  }

  /** @param {any} item */
  make(item) {
    switch (item.kind) {
      case "message": return item.form === "reasoning" ? new ReasoningView() : new MessageView(item, this.actions);
      case "tool": return new ToolView(this.actions);
      case "ask": return new AskView(this.actions);
      case "end": return new EndView();
      default: return new NoteView();
    }
  }

  /** @param {any} conversation */
  showStatus(conversation) {
    const isBusy = conversation.turnId !== null;
    this.status.hidden = !isBusy || conversation.isWriting || conversation.isAsked;
    this.status.lastElementChild.textContent = conversation.isToolRunning ? "Using a tool" : "Thinking";
    this.log.setAttribute("aria-busy", String(isBusy && !conversation.isAsked));
  }

  /** Read out what is worth hearing: that it began, what was asked, and the whole answer, once. */
  tell(conversation, /** @type {Set<any>} */ changed) {
    const isBusy = conversation.turnId !== null;
    if (isBusy && !this.wasBusy) announce("The agent is answering");
    for (const item of changed) {
      if (item.kind === "ask" && item.state === "open") announce(`The agent asks: ${item.ask.title}`);
    }
    if (!isBusy && this.wasBusy) {
      const end = conversation.items.findLast((/** @type {any} */ item) => item.kind === "end");
      const said = conversation.items.filter((/** @type {any} */ item) => item.kind === "message"
        && item.role === "assistant" && item.form === "text" && item.turnId === end?.turnId);
      const text = said.map((/** @type {any} */ item) => this.views.get(item.key)?.element.querySelector(".markdown")?.textContent ?? "").join(" ");
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

class MessageView {
  /** @param {any} item @param {any} actions */
  constructor(item, actions) {
    this.item = item;
    const name = NAMES[/** @type {keyof NAMES} */ (item.role)] ?? item.role;
    this.markdown = item.role === "user" ? null : new MarkdownView();
    this.body = this.markdown?.element ?? h("div.said");
    this.files = h("ul.files", { hidden: true });
    this.time = h("time");
    this.mark = h("span.mark", { hidden: true });
    this.actions = h("div.message-actions", null, this.time,
      copyButton(() => this.item.text, "Copy the message"),
      iconButton("fork", "Fork from here: begin another session with what was said up to this message", () => actions.onFork(this.item.key)));
    this.element = h(`article.message.from-${["user", "assistant"].includes(item.role) ? item.role : "other"}`,
      { tabindex: -1, "aria-label": name },
      h("h2.visually-hidden", null, `${name} said`), this.body, this.files, this.mark, this.actions);
    this.render = eachFrame(() => this.showText());
    this.spent = 0;
  }

  /** @param {any} item */
  update(item) {
    this.item = item;
    const isStreaming = item.status === "streaming";
    this.element.classList.toggle("streaming", isStreaming);
    this.element.classList.toggle("sending", item.status === "sending");
    this.element.hidden = isStreaming && !item.text;
    this.actions.hidden = isStreaming || item.status === "sending";
    this.time.textContent = writeTime(item.timestamp);
    this.time.dateTime = item.timestamp;
    const cut = CUT[/** @type {keyof CUT} */ (item.status)] ?? (item.status === "sending" ? "Not sent yet" : "");
    this.mark.hidden = !cut;
    this.mark.textContent = cut;
    this.files.hidden = !item.attachments?.length;
    this.files.replaceChildren(...(item.attachments ?? []).map((/** @type {any} */ file) => h("li", null, file.name)));
    // Making a long text anew may cost more than a frame: then it is made less often.
    if (isStreaming && performance.now() < this.spent) this.render();
    else this.showText();
  }

  showText() {
    if (!this.markdown) {
      this.body.textContent = this.item.text;
      return;
    }
    const isStreaming = this.item.status === "streaming";
    const begun = performance.now();
    if (isStreaming && begun < this.spent) return this.render();
    this.markdown.update(this.item.text);
    this.spent = performance.now() + 4 * (performance.now() - begun);
  }
}

class ReasoningView {
  constructor() {
    this.label = h("span");
    this.preview = h("span.preview");
    this.body = h("div.said");
    this.element = h("details.fold.reasoning", null,
      h("summary", null, icon("chevron"), icon("thought"), this.label, this.preview), this.body);
  }

  /** @param {any} item */
  update(item) {
    const isStreaming = item.status === "streaming";
    this.element.classList.toggle("running", isStreaming);
    this.label.textContent = isStreaming ? "Thinking" : "Thought";
    this.preview.textContent = shorten(item.text.slice(isStreaming ? -200 : 0).slice(0, 200), 90);
    this.body.textContent = item.text;
  }
}

class ToolView {
  /** @param {any} actions */
  constructor(actions) {
    this.actions = actions;
    this.name = h("code.tool-name");
    this.preview = h("span.preview");
    this.state = h("span.state");
    this.progress = h("progress", { hidden: true, "aria-label": "Progress" });
    this.said = h("span.muted.progress-text");
    this.body = h("div.fold-body");
    this.details = h("details.fold.tool", { toggle: () => this.details.open && this.fill() },
      h("summary", null, icon("chevron"), icon("tool"), this.name, this.preview, this.state),
      this.body);
    this.bar = h("div.tool-progress", { hidden: true }, this.progress, this.said);
    this.element = h("div.tool-item", null, this.details, this.bar);
  }

  /** @param {any} item */
  update(item) {
    this.item = item;
    const label = CALLS[/** @type {keyof CALLS} */ (item.status)] ?? item.status;
    this.name.textContent = item.name;
    this.preview.textContent = shorten(Object.entries(item.arguments ?? {}).map(([key, value]) => `${key}: ${shorten(writeValue(value).slice(0, 200), 40)}`).join(", "), 120);
    this.state.textContent = label;
    this.details.className = `fold tool is-${item.status}`;
    this.details.classList.toggle("running", item.status === "running");
    const progress = item.progress;
    this.bar.hidden = !progress;
    if (progress) {
      this.progress.hidden = typeof progress.progress !== "number";
      if (typeof progress.progress === "number") {
        this.progress.max = progress.total > 0 ? progress.total : 1;
        if (progress.total > 0) this.progress.value = progress.progress;
        else this.progress.removeAttribute("value");
      }
      this.said.textContent = progress.text ?? "";
    }
    if (this.details.open) this.fill();
  }

  /** A fold that nobody opens is not filled. */
  fill() {
    const item = this.item;
    const version = `${item.status} ${writeValue(item.arguments)}`;
    if (this.filled === version) return;
    this.filled = version;
    const parts = [h("h3", null, "Arguments"), codeBlock(writeValue(item.arguments ?? {}, 2), "json")];
    if (item.error) parts.push(h("h3", null, "Error"), h("p.problem", null, item.error));
    if (item.result !== undefined && item.result !== null) {
      const text = writeValue(item.result, 2);
      const isJson = typeof item.result !== "string";
      parts.push(h("h3", null, "Result"), codeBlock(text.length > MAX_RESULT ? `${text.slice(0, MAX_RESULT)}…` : text, isJson ? "json" : "text"));
    }
    if (item.childSessionId) {
      parts.push(h("p", null, h("button", { type: "button", click: () => this.actions.onOpen(item.childSessionId) }, "Open the sub-agent's session")));
    }
    this.body.replaceChildren(...parts);
  }
}

class AskView {
  /** @param {any} actions */
  constructor(actions) {
    this.actions = actions;
    this.element = h("div.ask-item");
    this.state = "";
  }

  /** @param {any} item */
  update(item) {
    if (item.state === this.state) return;
    // What was answered here was disabled meanwhile, and has lost the focus by that.
    const hadFocus = this.element.contains(document.activeElement)
      || (this.isAnswering && document.activeElement === document.body);
    this.state = item.state;
    this.element.replaceChildren(item.state === "open" ? askCard(item.ask, (answer) => {
      this.isAnswering = true;
      return this.actions.onAnswer(item.ask.askId, answer);
    }) : askLine(item));
    // Whoever answered by keyboard goes on writing.
    if (hadFocus) document.getElementById("message")?.focus();
  }
}

class EndView {
  constructor() {
    this.element = h("p.end");
  }

  /** @param {any} item */
  update(item) {
    const isFine = item.outcome === "completed";
    const usage = item.usage?.totalTokens ? `${item.usage.totalTokens.toLocaleString()} tokens` : "";
    const cost = item.usage?.cost ? `cost ${item.usage.cost.toPrecision(3)}` : "";
    const took = item.durationMs ? writeDuration(item.durationMs) : "";
    const figures = [took, usage, cost].filter(Boolean).join(" · ");
    this.element.classList.toggle("failed", item.outcome === "failed");
    this.element.classList.toggle("cut", !isFine);
    this.element.replaceChildren(...(isFine ? [figures] : [h("strong", null, outcomeOf(item)), figures ? ` · ${figures}` : ""]));
    this.element.hidden = isFine && !usage;
  }
}

/** @param {any} end */
function outcomeOf(end) {
  const error = end.error;
  const id = error?.errorId && !error.message.includes(error.errorId) ? ` (${error.errorId})` : "";
  switch (end.outcome) {
    case "failed": return error ? `${error.message}${id}` : "The answer failed";
    case "cancelled": return "Stopped";
    case "interrupted": return "The server was restarted in the middle of the answer";
    case "budgetExceeded": return "The budget is spent";
    default: return "Answered";
  }
}

class NoteView {
  constructor() {
    this.element = h("div.note");
  }

  /** @param {any} item */
  update(item) {
    this.element.replaceChildren(item.detail
      ? h("details", null, h("summary", null, item.text), h("p.said", null, item.detail)) : h("p", null, item.text));
  }
}
