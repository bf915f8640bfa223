/** Where one writes, stops, and sees what waits for its turn. */

import { byId, h, iconButton, shorten } from "./dom.js";

export class Composer {
  /**
   * @param {{onSend: (text: string, whenBusy?: string) => Promise<void>, onStop: () => void,
   *   onWithdraw: (input: any) => void, onFork: () => void}} actions
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
    const text = this.input.value.toWellFormed();
    if (!text.trim() || this.isSending) return;
    this.isSending = true;
    this.write("");
    try {
      await this.actions.onSend(text, this.isBusy ? this.whenBusy.value : undefined);
    } catch {
      // Said elsewhere. Nothing that was written is lost.
      this.write(this.input.value ? `${text}\n${this.input.value}` : text);
    } finally {
      this.isSending = false;
      this.showButtons();
    }
  }

  /** @param {string} text */
  write(text) {
    this.input.value = text;
    this.showButtons();
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
    const text = shorten(input.content, 120);
    return h(
      "li",
      null,
      h("span.queued-text", { title: shorten(input.content, 1000) }, text),
      h("span.muted", null, input.whenBusy === "steer" ? "steering" : ""),
      iconButton("close", `Withdraw “${shorten(input.content, 40)}”`, () =>
        this.actions.onWithdraw(input),
      ),
    );
  }

  showButtons() {
    this.sendButton.disabled = !this.input.value.trim() || this.isSending;
  }
}
