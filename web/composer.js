/** Where one writes, stops, and sees what waits for its turn. */

import { byId, h, iconButton, shorten } from "./dom.js";
import { Files } from "./files.js";

/** @typedef {{text: string, files: import("./files.js").Attachment[]}} Draft What was not sent yet. */

/** @type {Draft} */
export const EMPTY = { text: "", files: [] };

/** Put what comes back before what was written meanwhile. @param {Draft} first @param {Draft} later */
export function join(first, later) {
  return {
    text: [first.text, later.text].filter(Boolean).join("\n"),
    files: [...first.files, ...later.files],
  };
}

export class Composer {
  /**
   * @param {{onSend: (draft: Draft, whenBusy?: string) => Promise<void>, onStop: () => void,
   *   onWithdraw: (input: any) => void, onFork: () => void, onProblem: (text: string) => void,
   *   maxBytes: () => number}} actions
   */
  constructor(actions) {
    this.actions = actions;
    /** @type {HTMLFormElement} */
    this.form = byId("composer");
    /** @type {HTMLTextAreaElement} */
    this.input = byId("message");
    /** @type {HTMLButtonElement} */
    this.sendButton = byId("send");
    /** @type {HTMLButtonElement} */
    this.stopButton = byId("stop");
    /** @type {HTMLSelectElement} */
    this.whenBusy = byId("when-busy");
    this.busyChoice = byId("busy-choice");
    this.queue = byId("queue");
    this.ended = byId("ended");
    this.isSending = false;
    this.files = new Files({ ...actions, onChange: () => this.showButtons() });
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.input.addEventListener("keydown", (event) => this.press(event));
    this.input.addEventListener("input", () => this.showButtons());
    this.stopButton.addEventListener("click", () => this.actions.onStop());
    byId("fork-ended").addEventListener("click", () => this.actions.onFork());
    this.isBusy = false;
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    // While a word is put together by an input method, Enter is its own.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.send();
    }
  }

  async send() {
    const { draft } = this;
    if (this.isEmpty || this.isSending) return;
    this.isSending = true;
    this.put(EMPTY);
    try {
      await this.actions.onSend(draft, this.isBusy ? this.whenBusy.value : undefined);
    } catch {
      this.put(join(draft, this.draft)); // said elsewhere
    } finally {
      this.isSending = false;
      this.showButtons();
    }
  }

  /** @returns {Draft} */
  get draft() {
    return { text: this.input.value.toWellFormed(), files: this.files.items };
  }

  get isEmpty() {
    return !this.input.value.trim() && !this.files.items.length;
  }

  /** @param {Draft} draft */
  put(draft) {
    this.input.value = draft.text;
    this.files.put(draft.files);
  }

  focus() {
    if (!this.form.hidden) this.input.focus();
  }

  /**
   * @param {{isBusy: boolean, isStopping: boolean, endedText: string, queue: any[]}} state
   */
  show({ isBusy, isStopping, endedText, queue }) {
    this.isBusy = isBusy;
    this.form.hidden = endedText !== "";
    this.ended.hidden = endedText === "";
    byId("ended-text").textContent = endedText;
    this.stopButton.hidden = !isBusy;
    this.stopButton.disabled = isStopping;
    this.busyChoice.hidden = !isBusy;
    const hadFocus = this.queue.contains(document.activeElement);
    const known = queue.map((input) => input.inputId).join(" ");
    if (known !== this.queue.dataset.known) {
      this.queue.dataset.known = known;
      this.queue.hidden = queue.length === 0;
      this.queue.replaceChildren(
        ...(queue.length === 0
          ? []
          : [
              h("h2", null, `Waiting for the answer before (${queue.length})`),
              h("ol", null, ...queue.map((input) => this.queued(input))),
            ]),
      );
      if (hadFocus) this.focus();
    }
    this.showButtons();
  }

  /** @param {any} input */
  queued(input) {
    const names = (input.attachments ?? []).map((/** @type {any} */ file) => file.name);
    const said = [input.content, ...names].filter(Boolean).join(" · ");
    return h(
      "li",
      null,
      h("span.queued-text", { title: shorten(said, 1000) }, shorten(said, 120)),
      h("span.muted", null, input.whenBusy === "steer" ? "steering" : ""),
      iconButton("close", `Withdraw “${shorten(said, 40)}”`, () =>
        this.actions.onWithdraw(input),
      ),
    );
  }

  showButtons() {
    this.sendButton.disabled = this.isEmpty || this.isSending;
  }
}
