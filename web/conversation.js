/**
 * What is shown of one session, folded from its events. It knows no page, and can be tested alone.
 *
 * @typedef {import("./trialogue.js").Event} Event
 * @typedef {object} Item One thing in the transcript. `key` names it.
 * @property {string} key
 * @property {"message" | "tool" | "ask" | "note" | "end"} kind
 */

import { seqOf } from "./trialogue.js";

const ENDED_CALLS = new Set(["ok", "error", "cancelled", "unknown"]);

/** What items are that something is still to come of. */
const OPEN = new Set(["open", "pending", "running", "sending", "streaming"]);

export class Conversation {
  /** @param {() => void} onChange Called after each change; `takeChanges` says what it was. */
  constructor(onChange) {
    /** @type {any} The session, as it was last told. */
    this.session = null;
    /** @type {any[]} In their order. */
    this.items = [];
    /** Inputs that wait for their turn. @type {any[]} */
    this.queue = [];
    /** @type {string?} */
    this.turnId = null;
    this.turnStartedAt = 0;
    /** What was asked for before is being told. */
    this.isReplaying = true;
    /** There are older messages than are here. */
    this.hasMore = false;
    /** @type {"open" | "closed" | "expired" | "deleted"} */
    this.state = "open";
    this.#onChange = onChange;
  }

  #onChange;
  /** @type {Map<string, any>} */ #byKey = new Map();
  /** @type {Map<string, any>} */ #inProgress = new Map();
  /** @type {any[]} */ #openAsks = [];
  /** Of what the answer said already, events tell only how it came to be. */
  #known = 0;
  #changed = new Set();
  #isMoved = false;
  #notes = 0;

  /** What changed since it was last asked. `isMoved`: items came, went or moved. */
  takeChanges() {
    const changes = { items: this.#changed, isMoved: this.#isMoved };
    this.#changed = new Set();
    this.#isMoved = false;
    return changes;
  }

  /** Whether a question waits for a person. */
  get isAsked() {
    return this.items.some(
      (item) => item.kind === "ask" && item.state === "open" && item.ask.kind !== "tool",
    );
  }

  /** The message that is being written, if one is. */
  get isWriting() {
    return this.items.some(
      (item) => item.kind === "message" && item.status === "streaming" && item.text,
    );
  }

  get isToolRunning() {
    return this.items.some((item) => item.kind === "tool" && item.status === "running");
  }

  // -- what the subscription says ---------------------------------------------------------

  /** Take the answer of `session.subscribe`. @param {any} answer */
  start(answer) {
    this.#takeSession(answer.session);
    this.#known = seqOf(answer.position);
    this.turnId = answer.session.activeTurnId ?? null;
    if (this.turnId && !this.turnStartedAt) this.turnStartedAt = Date.now();
    this.queue = [...answer.inputs];
    this.#openAsks = [...answer.asks];
    for (const message of answer.inProgress) this.#inProgress.set(message.messageId, message);
    if (this.items.length === 0) this.hasMore = seqOf(answer.replayFrom) > 0;
    this.isReplaying = true;
    this.#change();
  }

  /** @param {Event} event @param {{textOf: (messageId: string) => string}} subscription */
  take(event, subscription) {
    const isNews = event.position === undefined || seqOf(event.position) > this.#known;
    const data = event.data ?? {};
    switch (event.type) {
      case "message.created":
        this.#takeMessage(data.message);
        break;
      case "message.completed":
        this.#takeMessage(data.message);
        break;
      case "message.started":
        this.#startMessage(data);
        break;
      case "message.delta": {
        const item = this.#startMessage({ ...this.#inProgress.get(data.messageId), ...data });
        item.text = subscription.textOf(data.messageId);
        break;
      }
      case "tool.called":
        this.#tool(data.callId, {
          name: data.name,
          arguments: data.arguments,
          status: "running",
          childSessionId: data.childSessionId,
        });
        break;
      case "tool.progress":
        this.#tool(data.callId, { progress: data });
        break;
      case "tool.completed":
        this.#tool(data.callId, {
          status: data.status,
          result: data.result,
          error: data.error,
          progress: null,
        });
        break;
      case "ask.opened":
        this.#openAsk(data);
        break;
      case "ask.closed":
        this.#closeAsk(data, isNews);
        break;
      case "turn.started":
      case "turn.resumed":
        if (isNews) this.#startTurn(data.turnId);
        break;
      case "turn.ended":
        this.#endTurn(data, isNews);
        break;
      case "input.queued":
        this.#dropUnsent(data.messageId);
        if (isNews) this.queue.push(data);
        break;
      case "input.delivered":
      case "input.withdrawn":
      case "input.returned":
        if (isNews) this.queue = this.queue.filter((input) => input.inputId !== data.inputId);
        break;
      case "session.created":
      case "session.updated":
        if (isNews || !this.session) this.#takeSession(data.session);
        break;
      case "session.compacted":
        this.#note(
          `The agent reads a summary of the first ${data.compactedCount} messages from here on.`,
          data.summary,
        );
        break;
      case "session.closed":
        this.#end("closed");
        break;
      case "session.expired":
        this.#end("expired");
        break;
      case "session.deleted":
        this.#end("deleted");
        break;
      case "resync":
        this.#resync(data);
        break;
      case "sync":
        this.#sync();
        break;
      default:
        return; // of a later version, or an agent's own
    }
    this.#change();
  }

  /** Put older messages before what is here. @param {any[]} messages @param {boolean} hasMore */
  prepend(messages, hasMore) {
    const later = this.items;
    this.items = [];
    for (const message of messages) if (!this.#byKey.has(message.id)) this.#takeMessage(message);
    this.items.push(...later);
    this.hasMore = hasMore;
    this.#isMoved = true;
    this.#change();
  }

  /**
   * Let the oldest go, up to what is still open, and to a message: `prepend` brings them back.
   * @param {number} kept At least so many stay.
   */
  trim(kept) {
    const open = this.items.findIndex((item) => OPEN.has(item.status ?? item.state));
    let end = Math.min(this.items.length - kept, open < 0 ? Infinity : open);
    while (end > 0 && this.items[end].kind !== "message") end--;
    if (end <= 0) return;
    for (const item of this.items.splice(0, end)) this.#byKey.delete(item.key);
    this.hasMore = true;
    this.#isMoved = true;
  }

  /** The oldest message that is here, as `message.list` knows it. */
  get firstMessageId() {
    return (
      this.items.find((item) => item.kind === "message" && item.status !== "sending")?.key ?? null
    );
  }

  // -- what is not sent yet ---------------------------------------------------------------

  /** Show what somebody said before the server has it. @param {string} text @param {any[]} [attachments] */
  addUnsent(text, attachments) {
    const item = this.#add(`unsent-${++this.#notes}`, {
      kind: "message",
      role: "user",
      form: "text",
      text,
      attachments,
      status: "sending",
      timestamp: new Date().toISOString(),
    });
    this.#change();
    return item;
  }

  /** It was taken, under this id, or refused. @param {any} item @param {string} [messageId] */
  settleUnsent(item, messageId) {
    const isHere =
      !messageId ||
      this.#byKey.has(messageId) ||
      this.queue.some((input) => input.messageId === messageId);
    if (isHere) this.#remove(item);
    else item.messageId = messageId; // its event follows
    this.#change();
  }

  /** @param {string} messageId */
  #dropUnsent(messageId) {
    for (const item of this.items) {
      if (item.status === "sending" && item.messageId === messageId) this.#remove(item);
    }
  }

  // -- items ------------------------------------------------------------------------------

  /** @param {string} key @param {any} item */
  #add(key, item) {
    const added = { key, ...item };
    this.items.push(added);
    this.#byKey.set(key, added);
    this.#touch(added);
    this.#isMoved = true;
    return added;
  }

  /** @param {any} item */
  #remove(item) {
    this.items = this.items.filter((other) => other !== item);
    this.#byKey.delete(item.key);
    this.#isMoved = true;
  }

  /** @param {any} item */
  #touch(item) {
    this.#changed.add(item);
  }

  #change() {
    this.#onChange();
  }

  /** @param {any} session */
  #takeSession(session) {
    this.session = session;
    if (session.status === "closed" || session.status === "expired") this.state = session.status;
  }

  /** @param {any} message Whole. */
  #takeMessage(message) {
    this.#inProgress.delete(message.id);
    this.#dropUnsent(message.id);
    if (message.role === "tool") {
      const tool = this.#byKey.get(message.callId);
      // The event says more: this is the text that the model reads.
      if (!tool || !ENDED_CALLS.has(tool.status)) {
        this.#tool(message.callId ?? message.id, {
          status: message.status === "error" ? "error" : "ok",
          result: message.content,
        });
      }
      return;
    }
    if (message.content || message.attachments || !message.toolCalls) {
      const known = this.#byKey.get(message.id);
      const item = known ?? this.#add(message.id, { kind: "message" });
      Object.assign(item, {
        role: message.role,
        form: message.kind,
        text: message.content,
        status: message.status,
        timestamp: message.timestamp,
        attachments: message.attachments,
        turnId: message.turnId,
      });
      this.#touch(item);
    }
    for (const call of message.toolCalls ?? []) {
      if (!this.#byKey.has(call.callId)) {
        this.#tool(call.callId, { name: call.name, arguments: call.arguments, status: "pending" });
      }
    }
  }

  /** @param {any} started */
  #startMessage(started) {
    const known = this.#byKey.get(started.messageId);
    const item =
      known ??
      this.#add(started.messageId, {
        kind: "message",
        role: started.role ?? "assistant",
        form: started.kind ?? "text",
        text: "",
        status: "streaming",
        turnId: started.turnId,
        timestamp: new Date().toISOString(),
      });
    this.#touch(item);
    return item;
  }

  /** @param {string} callId @param {any} what */
  #tool(callId, what) {
    const item =
      this.#byKey.get(callId) ??
      this.#add(callId, {
        kind: "tool",
        name: "a tool",
        arguments: {},
        status: "pending",
        progress: null,
      });
    Object.assign(item, what);
    this.#touch(item);
  }

  /** @param {any} ask */
  #openAsk(ask) {
    if (this.#byKey.has(ask.askId)) return;
    this.#add(ask.askId, { kind: "ask", ask, state: "open" });
  }

  /** @param {any} closed @param {boolean} isNews */
  #closeAsk(closed, isNews) {
    if (isNews) this.#openAsks = this.#openAsks.filter((ask) => ask.askId !== closed.askId);
    const item = this.#byKey.get(closed.askId);
    if (!item) return; // it was asked before what is here
    Object.assign(item, {
      state: closed.reason,
      answer: closed.answer,
      error: closed.error,
      by: closed.by,
    });
    this.#touch(item);
  }

  /** @param {string} turnId */
  #startTurn(turnId) {
    if (this.turnId !== turnId) this.turnStartedAt = Date.now();
    this.turnId = turnId;
  }

  /** @param {any} ended @param {boolean} isNews */
  #endTurn(ended, isNews) {
    if (isNews && this.turnId === ended.turnId) {
      this.turnId = null;
      this.turnStartedAt = 0;
    }
    for (const item of this.items) {
      if (item.kind === "tool" && (item.status === "pending" || item.status === "running")) {
        Object.assign(item, { status: "cancelled", progress: null });
        this.#touch(item);
      }
    }
    const key = `end-${ended.turnId}`;
    if (!this.#byKey.has(key)) this.#add(key, { kind: "end", ...ended });
  }

  /** @param {string} text @param {string} [detail] */
  #note(text, detail) {
    this.#add(`note-${++this.#notes}`, { kind: "note", text, detail });
  }

  /** @param {"closed" | "expired" | "deleted"} state */
  #end(state) {
    this.state = state;
    if (this.session) this.session = { ...this.session, status: state };
    this.turnId = null;
    this.queue = [];
    this.#note(`The session ${state === "expired" ? "has expired" : `was ${state}`}.`);
  }

  /** @param {any} data */
  #resync(data) {
    const unsent = this.items.filter((item) => item.status === "sending");
    this.items = [];
    this.#byKey.clear();
    this.#takeSession(data.session);
    for (const message of data.messages) this.#takeMessage(message);
    this.hasMore = data.hasMore;
    this.items.push(...unsent);
    for (const item of unsent) this.#byKey.set(item.key, item);
    this.#isMoved = true;
  }

  #sync() {
    this.isReplaying = false;
    for (const ask of this.#openAsks) this.#openAsk(ask);
    this.#openAsks = [];
  }
}
