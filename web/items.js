/** One thing in the transcript each: made when it comes, changed in place. */

import { askCard, askLine } from "./asks.js";
import {
  copyButton,
  eachFrame,
  h,
  icon,
  iconButton,
  shorten,
  writeDuration,
  writeTime,
  writeValue,
} from "./dom.js";
import { codeBlock, MarkdownView } from "./markdown.js";

/** Of a tool's result that is shown. */
const MAX_RESULT = 20_000;
/** @type {Record<string, string>} */
const NAMES = { user: "You", assistant: "Agent", system: "System" };
/** @type {Record<string, string>} */
const CUT = { partial: "Stopped", interrupted: "Interrupted", error: "Failed" };
/** @type {Record<string, string>} */
const CALLS = {
  pending: "Waiting",
  running: "Running",
  ok: "Done",
  error: "Failed",
  cancelled: "Cancelled",
  unknown: "Outcome unknown",
};

/**
 * Make what shows an item: it has an `element`, and `update` follows the item.
 * @param {any} item
 * @param {any} actions As of `Transcript`.
 * @returns {{element: HTMLElement, update: (item: any) => void}}
 */
export function makeView(item, actions) {
  switch (item.kind) {
    case "message":
      return item.form === "reasoning" ? new ReasoningView() : new MessageView(item, actions);
    case "tool":
      return new ToolView(actions);
    case "ask":
      return new AskView(actions);
    case "end":
      return new EndView();
    default:
      return new NoteView();
  }
}

class MessageView {
  /** @param {any} item @param {any} actions */
  constructor(item, actions) {
    this.item = item;
    const name = NAMES[item.role] ?? item.role;
    this.markdown = item.role === "user" ? null : new MarkdownView();
    this.body = this.markdown?.element ?? h("div.said");
    this.files = h("ul.files", { hidden: true });
    this.time = h("time");
    this.mark = h("span.mark", { hidden: true });
    this.actions = h(
      "div.message-actions",
      null,
      this.time,
      copyButton(() => this.item.text, "Copy the message"),
      iconButton(
        "fork",
        "Fork from here: begin another session with what was said up to this message",
        () => actions.onFork(this.item.key),
      ),
    );
    this.element = h(
      `article.message.from-${["user", "assistant"].includes(item.role) ? item.role : "other"}`,
      { tabindex: -1, "aria-label": name },
      h("h2.visually-hidden", null, `${name} said`),
      this.body,
      this.files,
      this.mark,
      this.actions,
    );
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
    const cut = CUT[item.status] ?? (item.status === "sending" ? "Not sent yet" : "");
    this.mark.hidden = !cut;
    this.mark.textContent = cut;
    this.files.hidden = !item.attachments?.length;
    this.files.replaceChildren(
      ...(item.attachments ?? []).map((/** @type {any} */ file) => h("li", null, file.name)),
    );
    // Making a long text anew may cost more than a frame: then it is made less often.
    if (isStreaming && performance.now() < this.spent) this.render();
    else this.showText();
  }

  showText() {
    if (!this.markdown) {
      this.body.textContent = this.item.text;
      this.body.hidden = !this.item.text && !this.files.hidden;
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
    this.element = h(
      "details.fold.reasoning",
      null,
      h("summary", null, icon("chevron"), icon("thought"), this.label, this.preview),
      this.body,
    );
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
    this.filled = ""; // with what
    this.details = h(
      "details.fold.tool",
      { toggle: () => this.details.open && this.fill() },
      h("summary", null, icon("chevron"), icon("tool"), this.name, this.preview, this.state),
      this.body,
    );
    this.bar = h("div.tool-progress", { hidden: true }, this.progress, this.said);
    this.element = h("div.tool-item", null, this.details, this.bar);
  }

  /** @param {any} item */
  update(item) {
    this.item = item;
    const label = CALLS[item.status] ?? item.status;
    this.name.textContent = item.name;
    this.preview.textContent = shorten(
      Object.entries(item.arguments ?? {})
        .map(([key, value]) => `${key}: ${shorten(writeValue(value).slice(0, 200), 40)}`)
        .join(", "),
      120,
    );
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
    const parts = [
      h("h3", null, "Arguments"),
      codeBlock(writeValue(item.arguments ?? {}, 2), "json"),
    ];
    if (item.error) parts.push(h("h3", null, "Error"), h("p.problem", null, item.error));
    if (item.result !== undefined && item.result !== null) {
      const text = writeValue(item.result, 2);
      const isJson = typeof item.result !== "string";
      parts.push(
        h("h3", null, "Result"),
        codeBlock(
          text.length > MAX_RESULT ? `${text.slice(0, MAX_RESULT)}…` : text,
          isJson ? "json" : "text",
        ),
      );
    }
    if (item.childSessionId) {
      parts.push(
        h(
          "p",
          null,
          h(
            "button",
            { type: "button", click: () => this.actions.onOpen(item.childSessionId) },
            "Open the sub-agent's session",
          ),
        ),
      );
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
    const hadFocus =
      this.element.contains(document.activeElement) ||
      (this.isAnswering && document.activeElement === document.body);
    this.state = item.state;
    this.element.replaceChildren(
      item.state === "open"
        ? askCard(item.ask, (answer) => {
            this.isAnswering = true;
            return this.actions.onAnswer(item.ask.askId, answer);
          })
        : askLine(item),
    );
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
    const usage = item.usage?.totalTokens
      ? `${item.usage.totalTokens.toLocaleString()} tokens`
      : "";
    const cost = item.usage?.cost ? `cost ${item.usage.cost.toPrecision(3)}` : "";
    const took = item.durationMs ? writeDuration(item.durationMs) : "";
    const figures = [took, usage, cost].filter(Boolean).join(" · ");
    this.element.classList.toggle("failed", item.outcome === "failed");
    this.element.classList.toggle("cut", !isFine);
    this.element.replaceChildren(
      ...(isFine
        ? [figures]
        : [h("strong", null, outcomeOf(item)), figures ? ` · ${figures}` : ""]),
    );
    this.element.hidden = isFine && !usage;
  }
}

/** @param {any} end */
export function outcomeOf(end) {
  const error = end.error;
  const id = error?.errorId && !error.message.includes(error.errorId) ? ` (${error.errorId})` : "";
  switch (end.outcome) {
    case "failed":
      return error ? `${error.message}${id}` : "The answer failed";
    case "cancelled":
      return "Stopped";
    case "interrupted":
      return "The server was restarted in the middle of the answer";
    case "budgetExceeded":
      return "The budget is spent";
    default:
      return "Answered";
  }
}

class NoteView {
  constructor() {
    this.element = h("div.note");
  }

  /** @param {any} item */
  update(item) {
    this.element.replaceChildren(
      item.detail
        ? h("details", null, h("summary", null, item.text), h("p.said", null, item.detail))
        : h("p", null, item.text),
    );
  }
}
