/**
 * A client of the Trialogue protocol over WebSocket: this one file, and nothing else. Copy it.
 *
 *     const client = new Client({ url: "ws://127.0.0.1:8765/v1/ws" });
 *     await client.connect();
 *     const session = await client.call("session.create");
 *     client.subscribe(session.id, { onEvent: (event) => console.log(event.type, event.data) });
 *     await client.call("message.send", { sessionId: session.id, content: "hello" });
 *
 * A connection that breaks is made again, and its user need not notice: subscriptions go on at
 * their cursor, in the middle of a sentence if need be; what was asked and not answered is asked
 * again, commands under the idempotency key that they had. It runs in a browser, and in whatever
 * else has a `WebSocket` (or is given one). Sections (§) are those of docs/protocol.md.
 */

export const PROTOCOL_VERSION = "1.0";

/** The same answer would come again: they end reconnection (§3.5). */
const FINAL_CODES = new Set(["UNAUTHORIZED", "UNSUPPORTED_VERSION", "FORBIDDEN"]);
/** Requests that the server does not count as in flight (§11), so neither do we. */
const UNCOUNTED = new Set([
  "hello",
  "request.cancel",
  "turn.cancel",
  "ask.answer",
  "input.withdraw",
]);
/** What a draining server refuses (§3.4): it waits for the next connection. */
const NEW_WORK = new Set([
  "message.add",
  "message.send",
  "message.stream",
  "session.checkpoint",
  "session.close",
  "session.compact",
  "session.create",
  "session.delete",
  "session.fork",
  "session.update",
]);
/** What has an effect gets an idempotency key (§7). */
const COMMANDS = new Set([...NEW_WORK, "turn.cancel", "ask.answer", "input.withdraw"]);

/** For a connection and its hello. */
const CONNECT_MS = 10_000;
/** Silence of so many heartbeats is a dead connection (§3.3). */
const SILENT_HEARTBEATS = 1.5;
/** A page that slept hears late what came long ago: a last look before giving up. */
const LAST_LOOK_MS = 50;
const FIRST_BACKOFF_MS = 500;
const LONGEST_BACKOFF_MS = 30_000;
/** A connection that lived for less was no success. */
const STABLE_MS = 2_000;
/** Before a subscription that was refused for now is tried again, if the server names no time. */
const RESUBSCRIBE_MS = 1_000;
/** What holds until hello says otherwise. */
const DEFAULT_LIMITS = { maxFrameBytes: 256 * 1024, maxInFlight: 32 };

/**
 * @typedef {"disconnected" | "connecting" | "connected" | "reconnecting"} State
 * @typedef {{scheme: "apiKey" | "bearer", token: string}} Credential
 * @typedef {{now: () => number, setTimeout: Function, clearTimeout: Function}} Clock
 * @typedef {{sessionId?: string, position?: string, type: string, data: any}} Event
 * @typedef {object} Hello
 * @property {string} connectionId
 * @property {{name: string, version: string}} server
 * @property {string} principal
 * @property {string[]} [scopes] What the credential allows.
 * @property {string} [expiresAt]
 * @property {Record<string, number>} limits
 * @property {number} heartbeatMs
 */

/** The server's answer to a request, when it is no. */
export class WireError extends Error {
  /** @param {{code?: string, message?: string, retryable?: boolean, data?: any}} error */
  constructor(error) {
    super(error?.message ?? "The request failed");
    this.name = "WireError";
    /** One of §10. */
    this.code = error?.code ?? "SERVER_ERROR";
    this.retryable = error?.retryable === true;
    this.data = error?.data ?? {};
  }
}

/** There is no connection, and there will be none. */
export class ConnectionLostError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = "ConnectionLostError";
  }
}

/** @type {Clock} */
const SYSTEM_CLOCK = {
  now: () => Date.now(),
  setTimeout: (/** @type {any} */ run, /** @type {number} */ ms) => setTimeout(run, ms),
  clearTimeout: (/** @type {any} */ timer) => clearTimeout(timer),
};

/** Make an idempotency key. `crypto.randomUUID` is there on encrypted pages only. */
export function makeKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The number in a position: `seq` of "term-seq" (§6.1). @param {string} position */
export function seqOf(position) {
  return Number(position.slice(position.indexOf("-") + 1));
}

/** Count code points, as the protocol's offsets do. @param {string} text */
export function countCodePoints(text) {
  let count = text.length;
  for (let index = 0; index < text.length - 1; index++) {
    const unit = text.charCodeAt(index);
    if (unit >= 0xd800 && unit < 0xdc00) {
      const next = text.charCodeAt(index + 1);
      if (next >= 0xdc00 && next < 0xe000) {
        count--;
        index++;
      }
    }
  }
  return count;
}

/** The text of a message in progress, put together from deltas (§6.2). */
export class MessageText {
  constructor() {
    this.text = "";
    /** In code points. */
    this.length = 0;
  }

  /**
   * Apply a delta.
   * @param {number} offset In code points.
   * @param {string} delta
   * @returns {boolean} False if something before it is missing.
   */
  apply(offset, delta) {
    if (offset > this.length) return false;
    if (offset < this.length) {
      let end = 0;
      for (let left = offset; left > 0; left--) {
        end += (this.text.codePointAt(end) ?? 0) > 0xffff ? 2 : 1;
      }
      this.text = this.text.slice(0, end);
      this.length = offset;
    }
    this.text += delta;
    this.length += countCodePoints(delta);
    return true;
  }
}

/** One WebSocket, from its first frame to its last. */
class Connection {
  /**
   * @param {any} socket Just made.
   * @param {Clock} clock
   * @param {{onOpen: Function, onEnvelope: (type: string, payload: any) => void,
   *   onEnd: (reason: Error) => void}} handlers
   */
  constructor(socket, clock, handlers) {
    this.isOver = false;
    this.isWelcome = false;
    this.isDraining = false;
    this.limits = DEFAULT_LIMITS;
    this.openedAt = clock.now();
    this.#socket = socket;
    this.#clock = clock;
    this.#handlers = handlers;
    this.#heardAt = clock.now();
    this.#timer = clock.setTimeout(
      () => this.end(new ConnectionLostError("no answer in time")),
      CONNECT_MS,
    );
    socket.onopen = () => !this.isOver && handlers.onOpen();
    socket.onmessage = (/** @type {any} */ message) => this.#receive(message.data);
    socket.onclose = () => this.end(new ConnectionLostError("the connection was closed"));
    socket.onerror = () => {}; // onclose follows
  }

  #socket;
  #clock;
  #handlers;
  #heardAt;
  #timer;
  #silenceMs = 0;

  /** Take the answer to hello. @param {Hello} hello */
  welcome(hello) {
    this.isWelcome = true;
    this.limits = { ...DEFAULT_LIMITS, ...hello.limits };
    this.#clock.clearTimeout(this.#timer);
    this.#silenceMs = SILENT_HEARTBEATS * hello.heartbeatMs;
    if (this.#silenceMs > 0) this.#watch(this.#silenceMs);
  }

  /** End the connection when nothing at all has come for too long. @param {number} ms */
  #watch(ms) {
    this.#timer = this.#clock.setTimeout(() => {
      const heardAt = this.#heardAt;
      const left = heardAt + this.#silenceMs - this.#clock.now();
      if (left > 0) return this.#watch(left);
      this.#timer = this.#clock.setTimeout(() => {
        if (this.#heardAt !== heardAt) return this.#watch(this.#silenceMs);
        this.end(new ConnectionLostError("nothing came for too long"));
      }, LAST_LOOK_MS);
    }, ms);
  }

  /** @param {any} data */
  #receive(data) {
    if (this.isOver) return;
    this.#heardAt = this.#clock.now();
    let envelope;
    try {
      envelope = JSON.parse(data);
    } catch {
      return this.end(new ConnectionLostError("the server sent what is no JSON"));
    }
    const payload = envelope?.payload;
    if (typeof payload !== "object" || payload === null) {
      return this.end(new ConnectionLostError("the server sent what is no envelope"));
    }
    if (envelope.type === "ping") this.send("pong", payload);
    else this.#handlers.onEnvelope(envelope.type, payload);
  }

  /** @param {string} type @param {any} payload */
  send(type, payload) {
    this.sendFrame(encode(type, payload));
  }

  /** @param {string} frame */
  sendFrame(frame) {
    if (!this.isOver) this.#socket.send(frame);
  }

  /** @param {Error} reason The first one counts. */
  end(reason) {
    if (this.isOver) return;
    this.isOver = true;
    this.#clock.clearTimeout(this.#timer);
    this.#socket.close();
    this.#handlers.onEnd(reason);
  }
}

/** @param {string} type @param {any} payload */
function encode(type, payload) {
  return JSON.stringify({ version: PROTOCOL_VERSION, type, payload });
}

/**
 * A client of one server, over as many connections as it takes.
 *
 * It dispatches `state` when its state changes; `detail` is `{state, error?, retryMs?}`.
 */
export class Client extends EventTarget {
  /**
   * @param {object} options
   * @param {string} options.url `ws://` or `wss://`.
   * @param {Credential?} [options.auth] Sent in `hello`, never in a URL.
   * @param {{name: string, version?: string}} [options.client] Who we are.
   * @param {any} [options.WebSocket] A class with the browser's interface.
   * @param {Clock} [options.clock] In milliseconds.
   * @param {() => number} [options.random] Draws the jitter: from 0 up to 1.
   */
  constructor({
    url,
    auth = null,
    client = { name: "trialogue.js" },
    WebSocket = globalThis.WebSocket,
    clock = SYSTEM_CLOCK,
    random = Math.random,
  }) {
    super();
    this.url = url;
    this.auth = auth;
    /** @type {State} */
    this.state = "disconnected";
    /** @type {Hello?} What the server said when it welcomed us last. */
    this.hello = null;
    this.#me = client;
    this.#WebSocket = WebSocket;
    this.#clock = clock;
    this.#random = random;
  }

  #me;
  #WebSocket;
  #clock;
  #random;
  /** @type {Connection?} */ #connection = null;
  /** @type {any} */ #retryTimer = null;
  #failures = 0;
  /** @type {number?} */ #retryAfterMs = null;
  #lastId = 0;
  /** Not sent, in their order. @type {any[]} */ #waiting = [];
  /** Sent on this connection, by id. @type {Map<number, any>} */ #sent = new Map();
  /** @type {Map<string, Subscription>} */ #subscriptions = new Map();
  /** @type {{resolve: Function, reject: Function}[]} */ #greeters = [];

  // -- connections ------------------------------------------------------------------------

  /**
   * Connect, and stay so until `close`, or until the server refuses us for good.
   * @returns {Promise<Hello>} When first welcomed.
   */
  connect() {
    if (this.state === "connected" && this.hello) return Promise.resolve(this.hello);
    const welcomed = new Promise((resolve, reject) => this.#greeters.push({ resolve, reject }));
    if (this.state === "disconnected") {
      this.#failures = 0;
      this.#move("connecting");
      this.#dial();
    }
    return welcomed;
  }

  /** Leave for good: what is unanswered fails. `connect` begins anew. */
  close() {
    this.#over(new ConnectionLostError("the client was closed"));
  }

  /**
   * Take another credential. A connection that is there goes on, if it is of the same principal
   * and allows no less (§3.6).
   * @param {Credential?} auth
   * @returns {Promise<void>} Rejects if it is refused: then nothing has changed.
   */
  async renew(auth) {
    if (this.state === "connected") {
      this.hello = await this.call("hello", { client: this.#me, auth }, { isOnce: true });
    }
    this.auth = auth;
  }

  /** Try again now, if it is waited for that: the network is back, say. */
  wake() {
    if (this.#retryTimer !== null) this.#dial();
  }

  #dial() {
    this.#clock.clearTimeout(this.#retryTimer);
    this.#retryTimer = null;
    let socket;
    try {
      socket = new this.#WebSocket(this.url);
    } catch (error) {
      return this.#over(/** @type {Error} */ (error));
    }
    const connection = new Connection(socket, this.#clock, {
      onOpen: () => this.#greet(connection),
      onEnvelope: (type, payload) => this.#take(connection, type, payload),
      onEnd: (reason) => this.#lost(connection, reason),
    });
    this.#connection = connection;
  }

  /** @param {Connection} connection */
  #greet(connection) {
    const params = { client: this.#me, ...(this.auth ? { auth: this.auth } : {}) };
    const call = {
      method: "hello",
      params,
      isOnce: true,
      resolve: () => {},
      onResult: (/** @type {Hello} */ hello) => {
        this.hello = hello;
        connection.welcome(hello);
        this.#move("connected");
        for (const { resolve } of this.#greeters.splice(0)) resolve(hello);
        for (const subscription of this.#subscriptions.values()) subscription.start();
        this.#pump();
      },
      reject: (/** @type {Error} */ error) => connection.end(error),
    };
    this.#send(connection, call);
  }

  /** @param {Connection} connection @param {Error} reason */
  #lost(connection, reason) {
    if (this.#connection !== connection) return;
    this.#connection = null;
    const unanswered = [...this.#sent.values()];
    this.#sent.clear();
    for (const subscription of this.#subscriptions.values()) subscription.pause();
    this.#waiting.unshift(...unanswered.filter((call) => !call.isAbandoned && !call.isOnce));
    for (const call of unanswered) if (call.isOnce) this.#settle(call, () => call.reject(reason));
    if (reason instanceof WireError && FINAL_CODES.has(reason.code)) return this.#over(reason);
    if (connection.isWelcome && this.#clock.now() >= connection.openedAt + STABLE_MS) {
      this.#failures = 0;
    }
    const ceiling = Math.min(
      LONGEST_BACKOFF_MS,
      FIRST_BACKOFF_MS * 2 ** Math.min(this.#failures, 16),
    );
    const asked = this.#retryAfterMs ?? /** @type {any} */ (reason).data?.retryAfterMs;
    this.#retryAfterMs = null;
    this.#failures++;
    const retryMs = typeof asked === "number" ? Math.max(0, asked) : this.#random() * ceiling;
    this.#retryTimer = this.#clock.setTimeout(() => this.#dial(), retryMs);
    this.#move(this.state === "connecting" ? "connecting" : "reconnecting", {
      error: reason,
      retryMs,
    });
  }

  /** @param {Error} error */
  #over(error) {
    this.#clock.clearTimeout(this.#retryTimer);
    this.#retryTimer = null;
    const connection = this.#connection;
    this.#connection = null;
    connection?.end(error);
    const calls = [...this.#sent.values(), ...this.#waiting];
    this.#sent.clear();
    this.#waiting = [];
    for (const subscription of this.#subscriptions.values()) subscription.pause();
    for (const call of calls) this.#settle(call, () => call.reject(error));
    for (const { reject } of this.#greeters.splice(0)) reject(error);
    this.#move("disconnected", { error });
  }

  /** @param {State} state @param {object} [more] */
  #move(state, more = {}) {
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, ...more } }));
  }

  // -- requests ---------------------------------------------------------------------------

  /**
   * Carry a request out, over several connections if need be.
   * @param {string} method
   * @param {object} [params]
   * @param {object} [options]
   * @param {string} [options.key] Idempotency key; commands get one by themselves.
   * @param {number} [options.timeoutMs] For all attempts together; the server is told what is left.
   * @param {AbortSignal} [options.signal] Aborting asks the server to stop.
   * @param {boolean} [options.isOnce] Not to be asked again on another connection.
   * @param {(data: any) => void} [options.onResult] Called with the result, before what follows it
   *   on the connection is looked at.
   * @returns {Promise<any>} The answer's data, or rejects with a `WireError`.
   */
  call(method, params = {}, { key, timeoutMs, signal, isOnce = false, onResult } = {}) {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      if (this.state === "disconnected") {
        return reject(new ConnectionLostError("not connected"));
      }
      /** @type {any} */
      const call = { method, params, resolve, reject, isOnce, onResult, attempts: 0 };
      call.key = key ?? (COMMANDS.has(method) ? makeKey() : undefined);
      if (timeoutMs !== undefined) {
        call.deadline = this.#clock.now() + timeoutMs;
        call.timer = this.#clock.setTimeout(() => {
          const message = `${method}: no answer in ${timeoutMs} ms`;
          this.#abandon(call, new WireError({ code: "TIMEOUT", message, retryable: true }));
        }, timeoutMs);
      }
      if (signal) {
        call.signal = signal;
        call.onAbort = () => this.#abandon(call, signal.reason);
        signal.addEventListener("abort", call.onAbort, { once: true });
      }
      this.#waiting.push(call);
      this.#pump();
    });
  }

  /** Send what may be sent, in its order. */
  #pump() {
    const connection = this.#connection;
    if (!connection?.isWelcome) return;
    let free = connection.limits.maxInFlight;
    for (const call of this.#sent.values()) if (!UNCOUNTED.has(call.method)) free--;
    this.#waiting = this.#waiting.filter((call) => {
      if (connection.isOver || (connection.isDraining && NEW_WORK.has(call.method))) return true;
      if (!UNCOUNTED.has(call.method) && --free < 0) return true;
      this.#send(connection, call);
      return false;
    });
  }

  /** @param {Connection} connection @param {any} call */
  #send(connection, call) {
    call.id = ++this.#lastId;
    const left = call.deadline === undefined ? undefined : call.deadline - this.#clock.now();
    const frame = encode("request", {
      id: call.id,
      method: call.method,
      params: call.params,
      idempotencyKey: call.key,
      timeoutMs: left === undefined ? undefined : Math.max(1, Math.ceil(left)),
    });
    // The server would end the connection, and then we would come back with it.
    const limitBytes = connection.limits.maxFrameBytes;
    if (frame.length * 3 > limitBytes && new TextEncoder().encode(frame).length > limitBytes) {
      const message = `This is too long: the server takes ${limitBytes} bytes`;
      const error = new WireError({ code: "PAYLOAD_TOO_LARGE", message, data: { limitBytes } });
      return this.#settle(call, () => call.reject(error));
    }
    call.attempts++;
    this.#sent.set(call.id, call);
    connection.sendFrame(frame);
  }

  /** @param {any} call @param {Error} error */
  #abandon(call, error) {
    this.#waiting = this.#waiting.filter((other) => other !== call);
    const connection = this.#connection;
    if (this.#sent.get(call.id) === call && connection) {
      // It stays among them until it is answered: the server counts it until then.
      call.isAbandoned = true;
      this.#send(connection, {
        method: "request.cancel",
        params: { id: call.id },
        isOnce: true,
        resolve: () => {},
        reject: () => {},
        attempts: 0,
      });
    }
    this.#settle(call, () => call.reject(error));
  }

  /** @param {any} call @param {Function} answer */
  #settle(call, answer) {
    this.#clock.clearTimeout(call.timer);
    call.signal?.removeEventListener("abort", call.onAbort);
    answer();
  }

  // -- what comes -------------------------------------------------------------------------

  /** @param {Connection} connection @param {string} type @param {any} payload */
  #take(connection, type, payload) {
    if (this.#connection !== connection) return;
    if (type === "event") this.#takeEvent(connection, payload);
    else if (type === "response") this.#takeResponse(connection, payload);
  }

  /** @param {Connection} connection @param {any} payload */
  #takeResponse(connection, payload) {
    const error = payload.success === true ? null : new WireError(payload.error);
    const call = this.#sent.get(payload.id);
    if (!call) {
      // Something of ours could not be read, or we were told to go.
      if (error && FINAL_CODES.has(error.code)) connection.end(error);
      return;
    }
    this.#sent.delete(payload.id);
    if (error?.code === "SHUTTING_DOWN" && !call.isAbandoned && call.method !== "hello") {
      this.#retryAfterMs ??= error.data.retryAfterMs ?? null;
      this.#waiting.unshift(call);
      this.#drain(connection);
    } else if (
      !error ||
      (call.method === "session.delete" && call.attempts > 1 && error.code === "SESSION_NOT_FOUND")
    ) {
      const data = error ? {} : payload.data;
      if (!call.isAbandoned) call.onResult?.(data);
      this.#settle(call, () => call.resolve(data));
    } else {
      this.#settle(call, () => call.reject(error));
    }
    this.#pump();
    this.moveOn();
  }

  /** @param {Connection} connection @param {Event} event */
  #takeEvent(connection, event) {
    if (event.sessionId !== undefined) {
      this.#subscriptions.get(event.sessionId)?.take(event);
      if (event.type === "turn.ended") this.moveOn();
    } else if (event.type === "goaway") {
      this.#retryAfterMs = event.data?.retryAfterMs ?? null;
      this.#drain(connection);
    }
  }

  /** Send no new work here (§3.4). @param {Connection} connection */
  #drain(connection) {
    connection.isDraining = true;
    this.moveOn();
  }

  /** Leave a server that drains, once it has finished what we asked, and what we read. */
  moveOn() {
    const connection = this.#connection;
    if (!connection?.isDraining || this.#sent.size > 0) return;
    for (const subscription of this.#subscriptions.values()) if (subscription.isBusy) return;
    connection.end(new ConnectionLostError("the server is going away"));
  }

  // -- subscriptions ----------------------------------------------------------------------

  /**
   * Follow a session, across connections, until `close` of what is returned.
   * @param {string} sessionId
   * @param {object} options As of `Subscription`.
   * @returns {Subscription}
   */
  subscribe(sessionId, options) {
    if (this.#subscriptions.has(sessionId)) throw new Error(`subscribed already: ${sessionId}`);
    const subscription = new Subscription(this, sessionId, options, () => {
      this.#subscriptions.delete(sessionId);
      if (this.state === "connected") {
        this.call("session.unsubscribe", { sessionId }, { isOnce: true }).catch(() => {});
      }
      this.moveOn();
    });
    this.#subscriptions.set(sessionId, subscription);
    if (this.#connection?.isWelcome) subscription.start();
    return subscription;
  }

  /** For subscriptions. @param {Function} run @param {number} ms */
  later(run, ms) {
    return this.#clock.setTimeout(run, ms);
  }
}

/** A place in one session, which moves with what comes (§6). From `Client.subscribe`. */
export class Subscription {
  /**
   * @param {Client} client
   * @param {string} sessionId
   * @param {object} options
   * @param {string} [options.after] The position to start after; without it, now,
   * @param {number} [options.tail] or with the last so many messages.
   * @param {(event: Event, subscription: Subscription) => void} [options.onEvent] Each durable event
   *   once, in order, and the transient ones. For a `message.delta`, `textOf` has the whole text.
   * @param {(answer: any) => void} [options.onStart] Called with the answer of each
   *   `session.subscribe`, also when coming back, before the events that follow it.
   * @param {(error: Error) => void} [options.onError] It is over: there is no such session, say.
   * @param {() => void} onClose
   */
  constructor(client, sessionId, { after, tail, onEvent, onStart, onError }, onClose) {
    this.sessionId = sessionId;
    /** @type {string?} The cursor: the last durable event that was seen. */
    this.position = after ?? null;
    this.isOver = false;
    /** Whether a turn is running, as far as it is known. */
    this.isBusy = false;
    this.#client = client;
    this.#tail = tail;
    this.#onEvent = onEvent ?? (() => {});
    this.#onStart = onStart ?? (() => {});
    this.#onError = onError ?? (() => {});
    this.#onClose = onClose;
  }

  #client;
  #tail;
  #onEvent;
  #onStart;
  #onError;
  #onClose;
  /** @type {Map<string, MessageText>} */ #texts = new Map();
  /** Counts attempts, so that only the latest one is listened to. */
  #epoch = 0;
  #isStarted = false;

  /** The text so far of a message in progress. @param {string} messageId */
  textOf(messageId) {
    return this.#texts.get(messageId)?.text ?? "";
  }

  /** Follow no more. */
  close() {
    if (this.isOver) return;
    this.isOver = true;
    this.#onClose();
  }

  /** The connection went: nothing counts until the next answer. For the client. */
  pause() {
    this.#epoch++;
    this.#isStarted = false;
  }

  /** Subscribe on a new connection, or anew on this one. For the client. */
  start() {
    if (this.isOver) return;
    const epoch = ++this.#epoch;
    this.#isStarted = false;
    const isCurrent = () => epoch === this.#epoch && !this.isOver;
    const partial = Object.fromEntries([...this.#texts].map(([id, text]) => [id, text.length]));
    const params = {
      sessionId: this.sessionId,
      ...(this.position !== null ? { after: this.position } : {}),
      ...(this.position === null && this.#tail !== undefined ? { tail: this.#tail } : {}),
      ...(this.#texts.size > 0 ? { partial } : {}),
    };
    const onResult = (/** @type {any} */ answer) => {
      if (!isCurrent()) return;
      this.#isStarted = true;
      this.position ??= answer.replayFrom;
      this.isBusy = answer.session.activeTurnId !== undefined;
      this.#onStart(answer);
    };
    this.#client.call("session.subscribe", params, { isOnce: true, onResult }).catch((error) => {
      if (!isCurrent() || error instanceof ConnectionLostError) return;
      if (error.retryable) {
        const ms = error.data?.retryAfterMs ?? RESUBSCRIBE_MS;
        this.#client.later(() => isCurrent() && this.start(), ms);
        return;
      }
      if (FINAL_CODES.has(error.code) && this.#client.state === "disconnected") return;
      this.isOver = true;
      this.#onClose();
      this.#onError(error);
    });
  }

  /** Take an event of this session. For the client. @param {Event} event */
  take(event) {
    if (this.isOver || !this.#isStarted) return;
    if (event.position !== undefined && !this.#advance(event.position)) return;
    const { type, data } = event;
    if (type === "message.delta") {
      let text = this.#texts.get(data.messageId);
      if (!text) this.#texts.set(data.messageId, (text = new MessageText()));
      if (!text.apply(data.offset, data.delta)) return this.start();
    } else if (type === "message.completed") {
      this.#texts.delete(data.message.id);
    } else if (type === "turn.started" || type === "turn.resumed") {
      this.isBusy = true;
    } else if (type === "turn.ended") {
      this.isBusy = false;
    } else if (type === "resync") {
      this.position = data.position;
      this.#texts.clear();
    } else if (type === "session.deleted") {
      this.isOver = true;
      this.#onClose();
    }
    this.#onEvent(event, this);
  }

  /** @param {string} position @returns {boolean} Whether this is the next one. */
  #advance(position) {
    const seq = seqOf(position);
    const last = this.position === null ? seq - 1 : seqOf(this.position);
    if (seq === last + 1) {
      this.position = position;
      return true;
    }
    if (seq > last) this.start(); // one is missing: have it sent again from there
    return false;
  }
}
