// The protocol client and the fold by themselves: a socket and a clock that the test moves. test_client.py runs them.

import { Conversation } from "./conversation.js";
import { Client, ConnectionLostError, countCodePoints, MessageText } from "./trialogue.js";

const tests = {};
const test = (name, run) => {
  tests[name] = run;
};

/** Run all of them. Gives what failed, by name, and how many there were. */
globalThis.runTests = async () => {
  const failures = {};
  for (const [name, run] of Object.entries(tests)) {
    FakeSocket.all = [];
    try {
      await run();
    } catch (error) {
      failures[name] = String(error.stack ?? error);
    }
  }
  return { failures, count: Object.keys(tests).length };
};

function equal(found, wanted, what = "") {
  const [a, b] = [JSON.stringify(found), JSON.stringify(wanted)];
  if (a !== b) throw new Error(`${what} expected ${b}, not ${a}`);
}

class FakeClock {
  time = 1_000_000;
  timers = new Map();
  last = 0;
  now = () => this.time;
  setTimeout = (run, ms) => (this.timers.set(++this.last, { run, at: this.time + ms }), this.last);
  clearTimeout = (timer) => this.timers.delete(timer);
  /** Let time pass; what is due runs when it is. */
  pass(ms) {
    const end = this.time + ms;
    for (;;) {
      const due = [...this.timers]
        .filter(([, one]) => one.at <= end)
        .sort((a, b) => a[1].at - b[1].at)[0];
      if (!due) break;
      this.timers.delete(due[0]);
      this.time = Math.max(this.time, due[1].at);
      due[1].run();
    }
    this.time = end;
  }
}

class FakeSocket {
  static all = [];
  sent = [];
  isClosed = false;
  constructor(url) {
    this.url = url;
    FakeSocket.all.push(this);
  }
  static get last() {
    return FakeSocket.all.at(-1);
  }
  send(frame) {
    this.sent.push(JSON.parse(frame));
  }
  close() {
    this.isClosed = true;
  }
  receive(type, payload) {
    this.onmessage({ data: JSON.stringify({ version: "1.0", type, payload }) });
  }
  event(type, data, position, sessionId = "s") {
    this.receive("event", { sessionId, position, type, data });
  }
  answer(method, data) {
    const { id } = this.requests(method).at(-1);
    this.receive("response", { id, success: true, data });
  }
  refuse(method, code, more = {}) {
    const { id } = this.requests(method).at(-1);
    this.receive("response", {
      id,
      success: false,
      error: { code, message: code, retryable: false, ...more },
    });
  }
  requests(method) {
    return this.sent
      .filter((one) => one.type === "request")
      .map((one) => one.payload)
      .filter((one) => !method || one.method === method);
  }
}

const WELCOME = {
  connectionId: "c",
  server: { name: "t", version: "0" },
  principal: "anonymous",
  limits: { maxFrameBytes: 1000, maxInFlight: 3 },
  heartbeatMs: 20_000,
};

function start(options = {}) {
  const clock = new FakeClock();
  const states = [];
  const client = new Client({
    url: "ws://example/v1/ws",
    WebSocket: FakeSocket,
    clock,
    random: () => 0.5,
    ...options,
  });
  client.addEventListener("state", (event) => states.push(event.detail));
  const connected = client.connect();
  connected.catch(() => {});
  return { client, clock, states, connected };
}

function welcome(socket = FakeSocket.last) {
  socket.onopen();
  socket.answer("hello", WELCOME);
  return socket;
}

/** A client that follows session "s" and has seen "1-1" to "1-3". */
function following(options = {}) {
  const all = start();
  const socket = welcome();
  const events = [];
  const subscription = all.client.subscribe("s", {
    after: "1-3",
    onEvent: (event) => events.push(event),
    ...options,
  });
  subscribed(socket);
  return { ...all, socket, events, subscription };
}

function subscribed(socket, replayFrom = "1-3") {
  socket.answer("session.subscribe", {
    session: { id: "s" },
    position: replayFrom,
    replayFrom,
    inProgress: [],
    asks: [],
    inputs: [],
  });
}

const settled = async (promise) =>
  promise.then(
    (value) => ({ value }),
    (error) => ({ error }),
  );
const soon = () => new Promise((resolve) => setTimeout(resolve, 0));

// -- the connection -------------------------------------------------------------------------------

test("the credential goes into hello and not into the address", async () => {
  const { client, connected } = start({ auth: { scheme: "bearer", token: "secret" } });
  const socket = welcome();
  await connected;
  equal(socket.url, "ws://example/v1/ws");
  equal(socket.requests("hello")[0].params.auth, { scheme: "bearer", token: "secret" });
  equal(client.state, "connected");
});

test("a ping is answered with its own payload", async () => {
  start();
  const socket = welcome();
  socket.receive("ping", { nonce: "x", more: [1] });
  equal(socket.sent.at(-1), { version: "1.0", type: "pong", payload: { nonce: "x", more: [1] } });
});

test("silence of one heartbeat and a half ends the connection, and a sign of life does not", async () => {
  const { client, clock } = start();
  const socket = welcome();
  clock.pass(29_000);
  socket.receive("ping", { nonce: "1" });
  clock.pass(29_999);
  equal(client.state, "connected");
  clock.pass(100);
  equal([client.state, socket.isClosed], ["reconnecting", true]);
});

test("nothing said by ten seconds after dialling is a failure", async () => {
  const { client, clock } = start();
  clock.pass(10_000);
  equal([FakeSocket.last.isClosed, client.state], [true, "connecting"]);
});

test("it comes back after half a second doubled each time, with jitter, at most thirty", async () => {
  const { clock, states } = start();
  for (let attempt = 0; attempt < 9; attempt++) {
    FakeSocket.last.onclose();
    clock.pass(states.at(-1).retryMs);
  }
  equal(
    states.filter((one) => one.error).map((one) => one.retryMs),
    [250, 500, 1000, 2000, 4000, 8000, 15000, 15000, 15000],
  );
});

test("a connection that lived counts as a success, one that did not does not", async () => {
  const { clock, states } = start();
  const delays = () => states.filter((one) => one.error).map((one) => one.retryMs);
  welcome().onclose();
  clock.pass(250);
  welcome().onclose();
  clock.pass(500);
  const socket = welcome();
  clock.pass(3_000);
  socket.onclose();
  equal(delays(), [250, 500, 250]);
});

test("a refused credential ends it, and fails what waits", async () => {
  const { client, clock, connected } = start();
  const call = settled(client.call("session.list"));
  FakeSocket.last.onopen();
  FakeSocket.last.refuse("hello", "UNAUTHORIZED");
  equal(
    [(await settled(connected)).error.code, (await call).error.code],
    ["UNAUTHORIZED", "UNAUTHORIZED"],
  );
  clock.pass(100_000);
  equal([client.state, FakeSocket.all.length], ["disconnected", 1]);
});

test("wake dials at once where a retry is waited for", async () => {
  const { client } = start();
  FakeSocket.last.onclose();
  equal(FakeSocket.all.length, 1);
  client.wake();
  client.wake();
  equal(FakeSocket.all.length, 2);
});

test("close fails what is unanswered, and stays closed", async () => {
  const { client, clock } = start();
  welcome();
  const call = settled(client.call("session.list"));
  client.close();
  clock.pass(100_000);
  equal(
    [(await call).error instanceof ConnectionLostError, FakeSocket.all.length, client.state],
    [true, 1, "disconnected"],
  );
});

test("a credential that is no good any more ends it", async () => {
  const { client, socket, clock } = following();
  const call = settled(client.call("session.list"));
  socket.refuse("session.list", "UNAUTHORIZED");
  socket.receive("response", {
    id: null,
    success: false,
    error: { code: "UNAUTHORIZED", message: "expired" },
  });
  equal([(await call).error.code, client.state], ["UNAUTHORIZED", "disconnected"]);
  clock.pass(100_000);
  equal(FakeSocket.all.length, 1);
});

test("a credential is renewed on the connection, and kept for the next one only if it was taken", async () => {
  const { client, clock } = start({ auth: { scheme: "bearer", token: "old" } });
  const socket = welcome();
  const refused = settled(client.renew({ scheme: "bearer", token: "bad" }));
  socket.refuse("hello", "UNAUTHORIZED");
  equal(
    [(await refused).error.code, client.state, client.auth.token],
    ["UNAUTHORIZED", "connected", "old"],
  );
  const renewed = client.renew({ scheme: "bearer", token: "new" });
  equal(socket.requests("hello").at(-1).params.auth.token, "new");
  socket.answer("hello", { ...WELCOME, scopes: ["read"] });
  await renewed;
  equal(client.hello.scopes, ["read"]);
  socket.onclose();
  clock.pass(250);
  FakeSocket.last.onopen();
  equal(FakeSocket.last.requests("hello")[0].params.auth.token, "new");
});

test("a renewal that was not answered is no renewal", async () => {
  const { client } = start();
  const socket = welcome();
  const renewed = settled(client.renew({ scheme: "bearer", token: "new" }));
  socket.onclose();
  equal([(await renewed).error instanceof ConnectionLostError, client.auth], [true, null]);
});

// -- requests -------------------------------------------------------------------------------------

test("an answer finds its request, whatever the order", async () => {
  const { client } = start();
  const socket = welcome();
  const [first, second] = [
    client.call("session.get", { sessionId: "a" }),
    client.call("session.get", { sessionId: "b" }),
  ];
  const [a, b] = socket.requests("session.get");
  socket.receive("response", { id: b.id, success: true, data: "B" });
  socket.receive("response", { id: a.id, success: true, data: "A" });
  equal([await first, await second], ["A", "B"]);
});

test("a command is asked again on the next connection, in its order and under its key", async () => {
  const { client, clock } = start();
  const socket = welcome();
  const calls = ["one", "two"].map((content) =>
    client.call("message.send", { sessionId: "s", content }),
  );
  client.call("session.list");
  socket.onclose();
  clock.pass(250);
  const next = welcome();
  const sent = next.requests().slice(1);
  equal(
    sent.map((one) => one.params.content ?? one.method),
    ["one", "two", "session.list"],
  );
  equal(
    sent.map((one) => one.idempotencyKey),
    socket
      .requests()
      .slice(1)
      .map((one) => one.idempotencyKey),
  );
  equal(
    sent.map((one) => (one.idempotencyKey ?? "").length),
    [32, 32, 0],
  );
  for (const { id, params } of sent.slice(0, 2))
    next.receive("response", { id, success: true, data: params.content });
  equal(await Promise.all(calls), ["one", "two"]);
});

test("a session that is gone was deleted, where the first answer was lost", async () => {
  const { client, clock } = start();
  const call = client.call("session.delete", { sessionId: "s" });
  welcome().onclose();
  clock.pass(250);
  welcome().refuse("session.delete", "SESSION_NOT_FOUND");
  equal(await call, {});
  const again = settled(client.call("session.delete", { sessionId: "s" }));
  FakeSocket.last.refuse("session.delete", "SESSION_NOT_FOUND");
  equal((await again).error.code, "SESSION_NOT_FOUND");
});

test("no more is in flight than the server takes, and a stop need not wait", async () => {
  const { client } = start();
  const socket = welcome();
  for (let n = 0; n < 5; n++) client.call("session.get", { sessionId: String(n) });
  client.call("turn.cancel", { sessionId: "s" });
  equal(
    socket
      .requests()
      .slice(1)
      .map((one) => one.params.sessionId),
    ["0", "1", "2", "s"],
  );
  socket.receive("response", { id: socket.requests("session.get")[0].id, success: true, data: {} });
  equal(socket.requests("session.get").length, 4);
});

test("what is too long for a frame is refused here, counted in bytes", async () => {
  const { client } = start();
  const socket = welcome();
  const error = (await settled(client.call("message.send", { content: "é".repeat(480) }))).error;
  equal(
    [error.code, error.data.limitBytes, socket.requests("message.send").length],
    ["PAYLOAD_TOO_LARGE", 1000, 0],
  );
  client.call("message.send", { content: "e".repeat(480) });
  equal(socket.requests("message.send").length, 1);
});

test("aborting asks the server to stop", async () => {
  const { client } = start();
  const socket = welcome();
  const controller = new AbortController();
  const call = settled(
    client.call("message.send", { content: "x", wait: true }, { signal: controller.signal }),
  );
  controller.abort();
  equal((await call).error.name, "AbortError");
  equal(socket.requests("request.cancel")[0].params, { id: socket.requests("message.send")[0].id });
});

test("a deadline is told to the server, and kept here", async () => {
  const { client, clock } = start();
  const socket = welcome();
  const call = settled(client.call("session.get", { sessionId: "s" }, { timeoutMs: 5_000 }));
  equal(socket.requests("session.get")[0].timeoutMs, 5_000);
  clock.pass(2_000);
  socket.onclose();
  clock.pass(250);
  equal(welcome().requests("session.get")[0].timeoutMs, 2_750);
  clock.pass(3_000);
  equal((await call).error.code, "TIMEOUT");
});

// -- a server that goes ---------------------------------------------------------------------------

test("after goaway new work waits for the next connection, and a stop does not", async () => {
  const { client, clock, socket } = following();
  socket.event("turn.started", { turnId: "t" }, "1-4");
  socket.receive("event", { type: "goaway", data: { reason: "restart", retryAfterMs: 700 } });
  const call = client.call("message.send", { content: "x" });
  client.call("turn.cancel", { sessionId: "s" });
  equal(
    socket.requests().map((one) => one.method),
    ["hello", "session.subscribe", "turn.cancel"],
  );
  equal(socket.isClosed, false, "a turn is running");
  socket.event("turn.ended", { turnId: "t" }, "1-5");
  equal(socket.isClosed, false, "turn.cancel has no answer");
  socket.answer("turn.cancel", { cancelled: true });
  equal(socket.isClosed, true);
  clock.pass(699);
  equal(FakeSocket.all.length, 1);
  clock.pass(1);
  welcome().answer("message.send", { state: "started" });
  equal(await call, { state: "started" });
});

test("what a draining server refuses is asked again elsewhere", async () => {
  const { client, clock } = start();
  const socket = welcome();
  const call = client.call("message.send", { content: "x" });
  socket.refuse("message.send", "SHUTTING_DOWN", { retryable: true, data: { retryAfterMs: 100 } });
  equal(socket.isClosed, true);
  clock.pass(100);
  welcome().answer("message.send", "done");
  equal(await call, "done");
});

// -- texts ----------------------------------------------------------------------------------------

test("offsets are code points", () => {
  const text = new MessageText();
  equal(text.apply(0, "a😀b"), true);
  equal([text.length, countCodePoints("😀\ud83d\ude00x\ud83d")], [3, 4]);
  equal([text.apply(3, "c"), text.text], [true, "a😀bc"]);
  equal([text.apply(2, "é"), text.text, text.length], [true, "a😀é", 3]);
  equal([text.apply(0, ""), text.text], [true, ""]);
  equal(text.apply(1, "x"), false);
});

test("a delta beyond what is here has the text sent again from there", () => {
  const { socket, subscription, events } = following();
  socket.event("message.delta", { messageId: "m", offset: 0, delta: "one" });
  socket.event("message.delta", { messageId: "m", offset: 9, delta: "three" });
  equal(socket.requests("session.subscribe").at(-1).params, {
    sessionId: "s",
    after: "1-3",
    partial: { m: 3 },
  });
  socket.event("message.delta", { messageId: "m", offset: 14, delta: "of the old one" });
  subscribed(socket);
  socket.event("message.delta", { messageId: "m", offset: 3, delta: " two three" });
  equal([subscription.textOf("m"), events.length], ["one two three", 2]);
});

// -- cursors --------------------------------------------------------------------------------------

test("a subscription goes on at its cursor and in the middle of a text, and nothing comes twice", () => {
  const { clock, socket, events, subscription } = following();
  socket.event("message.started", { messageId: "m" }, "1-4");
  socket.event("message.delta", { messageId: "m", offset: 0, delta: "Hel😀" });
  socket.onclose();
  clock.pass(250);
  const next = welcome();
  equal(
    next.requests("session.subscribe").map((one) => one.params),
    [{ sessionId: "s", after: "1-4", partial: { m: 4 } }],
  );
  next.event("message.started", { messageId: "early" }, "1-5");
  subscribed(next, "1-4");
  next.event("message.started", { messageId: "m" }, "1-4");
  next.event("message.delta", { messageId: "m", offset: 4, delta: "lo" });
  next.event("message.completed", { message: { id: "m" } }, "1-5");
  equal(
    events.map((event) => event.type),
    ["message.started", "message.delta", "message.delta", "message.completed"],
  );
  equal([subscription.position, subscription.textOf("m")], ["1-5", ""]);
});

test("a subscription without an answer is asked for once on the next connection", () => {
  const { client, clock } = start();
  const socket = welcome();
  client.subscribe("s", { tail: 5 });
  socket.onclose();
  clock.pass(250);
  equal(
    welcome()
      .requests("session.subscribe")
      .map((one) => one.params),
    [{ sessionId: "s", tail: 5 }],
  );
});

test("a missing event has what follows the cursor sent again", () => {
  const { socket, events } = following();
  socket.event("turn.started", { turnId: "t" }, "1-5");
  equal(
    socket.requests("session.subscribe").map((one) => one.params.after),
    ["1-3", "1-3"],
  );
  subscribed(socket);
  socket.event("input.delivered", {}, "1-4");
  socket.event("turn.started", { turnId: "t" }, "1-5");
  equal(
    events.map((event) => event.position),
    ["1-4", "1-5"],
  );
});

test("after a resync the cursor is where that says", () => {
  const { socket, events, subscription } = following();
  socket.event("message.delta", { messageId: "m", offset: 0, delta: "old" });
  socket.event("resync", { reason: "trimmed", session: {}, messages: [], position: "2-90" });
  equal([subscription.position, subscription.textOf("m")], ["2-90", ""]);
  socket.event("turn.started", { turnId: "t" }, "2-91");
  equal(
    events.map((event) => event.type),
    ["message.delta", "resync", "turn.started"],
  );
});

test("one that is refused for now is asked for again, one that is refused is over", async () => {
  let failure = null;
  const { client, clock } = start();
  const socket = welcome();
  client.subscribe("s", {
    tail: 1,
    onError: (error) => {
      failure = error;
    },
  });
  socket.refuse("session.subscribe", "RATE_LIMITED", {
    retryable: true,
    data: { retryAfterMs: 400 },
  });
  await soon();
  clock.pass(400);
  equal(socket.requests("session.subscribe").length, 2);
  socket.refuse("session.subscribe", "SESSION_NOT_FOUND");
  await soon();
  equal(failure.code, "SESSION_NOT_FOUND");
  clock.pass(100_000);
  equal(socket.requests("session.subscribe").length, 2);
});

test("after close nothing comes, and the session can be followed anew", async () => {
  const { client, socket, events, subscription } = following();
  subscription.close();
  socket.event("turn.started", {}, "1-4");
  equal([events.length, socket.requests("session.unsubscribe").length], [0, 1]);
  client.subscribe("s", { after: "1-3", onEvent: (event) => events.push(event) });
  socket.event("turn.started", {}, "1-4");
  equal(events.length, 0);
  subscribed(socket);
  socket.event("turn.started", {}, "1-4");
  equal(events.length, 1);
});

// -- what is shown of a session -------------------------------------------------------------------

function conversation(answer = {}) {
  const shown = new Conversation(() => {});
  shown.start({
    session: { id: "s", status: "running", activeTurnId: "t", ...answer.session },
    position: "1-10",
    replayFrom: "1-5",
    inProgress: [],
    asks: [],
    inputs: [],
    ...answer,
  });
  let seq = 5;
  const take = (type, data, isDurable = true) =>
    shown.take(
      { type, data, sessionId: "s", ...(isDurable ? { position: `1-${++seq}` } : {}) },
      { textOf: (id) => `text of ${id}` },
    );
  return {
    shown,
    take,
    skip: (to) => {
      seq = to;
    },
  };
}
const shape = (shown) =>
  shown.items.map((item) => `${item.kind} ${item.key} ${item.status ?? item.state ?? ""}`.trim());
const said = (id, more = {}) => ({
  message: { id, role: "assistant", kind: "text", content: id, status: "complete", ...more },
});

test("what the answer says is not undone by events that led to it", () => {
  const { shown, take, skip } = conversation({
    inputs: [{ inputId: "late" }],
    asks: [{ askId: "a2" }],
  });
  take("input.queued", { inputId: "early" });
  take("turn.ended", { turnId: "t", outcome: "completed" });
  take("ask.opened", { askId: "a1" });
  take("ask.closed", { askId: "a1", reason: "answered", answer: 1 });
  equal([shown.turnId, shown.queue.map((one) => one.inputId)], ["t", ["late"]]);
  take("sync", {}, false);
  equal(shape(shown), ["end end-t", "ask a1 answered", "ask a2 open"]);
  skip(10);
  take("input.delivered", { inputId: "late" });
  take("turn.ended", { turnId: "t", outcome: "completed" });
  equal([shown.turnId, shown.queue], [null, []]);
});

test("the oldest go, up to a message and to what is still open, and come back", () => {
  const { shown, take } = conversation();
  const keys = () => shown.items.map((item) => item.key).join(" ");
  for (const id of ["m1", "m2"]) take("message.completed", said(id));
  take("tool.called", { callId: "c1", name: "look_up" });
  take("tool.completed", { callId: "c1", status: "ok" });
  take("message.completed", said("m3"));
  take("ask.opened", { askId: "a1" });
  for (const id of ["m4", "m5"]) take("message.completed", said(id));
  shown.hasMore = false;
  shown.takeChanges();
  shown.trim(5);
  equal([keys(), shown.hasMore, shown.firstMessageId], ["m2 c1 m3 a1 m4 m5", true, "m2"]);
  equal(shown.takeChanges().isMoved, true);
  shown.trim(1);
  equal(keys(), "m3 a1 m4 m5");
  shown.takeChanges();
  shown.trim(1);
  equal(shown.takeChanges().isMoved, false);
  shown.prepend([said("m1").message, said("m2").message], false);
  equal([keys(), shown.hasMore], ["m1 m2 m3 a1 m4 m5", false]);
});

test("calls stand where their message is, whichever tells of them first", () => {
  const { shown, take } = conversation();
  take(
    "message.completed",
    said("m", {
      toolCalls: [
        { callId: "c1", name: "n", arguments: {} },
        { callId: "c2", name: "n", arguments: {} },
      ],
    }),
  );
  equal(shape(shown), ["message m complete", "tool c1 pending", "tool c2 pending"]);
  take("tool.called", { callId: "c1", turnId: "t", name: "n", arguments: {} });
  take("tool.completed", { callId: "c1", status: "error", error: "no" });
  take("message.created", said("r", { role: "tool", callId: "c1" }));
  equal(
    [shape(shown).slice(1), shown.items[1].error],
    [["tool c1 error", "tool c2 pending"], "no"],
  );
  take("turn.ended", { turnId: "t", outcome: "cancelled" });
  equal(shape(shown).slice(1, 3), ["tool c1 error", "tool c2 cancelled"]);
});

test("a resync replaces what was there, but not what was not sent yet", () => {
  const { shown, take } = conversation();
  take("message.completed", said("old"));
  shown.addUnsent("mine");
  take(
    "resync",
    {
      session: { id: "s", status: "idle" },
      messages: [
        said("new").message,
        said("", { toolCalls: [{ callId: "c", name: "n", arguments: {} }], content: "", id: "x" })
          .message,
        said("r", { role: "tool", callId: "c" }).message,
      ],
      hasMore: true,
    },
    false,
  );
  equal(shape(shown), ["message new complete", "tool c ok", "message unsent-1 sending"]);
  equal([shown.hasMore, shown.items[1].result], [true, "r"]);
  take("message.delta", { messageId: "live", turnId: "t" }, false);
  equal(shown.items.at(-1).text, "text of live");
});

test("what was said before it was sent goes when its event comes, before or after the answer", () => {
  const { shown, take } = conversation();
  const [one, two, three] = ["1", "2", "3"].map((text) => shown.addUnsent(text));
  shown.settleUnsent(one, "m1");
  take("message.created", said("m1", { role: "user" }));
  take("message.created", said("m2", { role: "user" }));
  shown.settleUnsent(two, "m2");
  shown.settleUnsent(three, "m3");
  take("input.queued", { inputId: "i3", messageId: "m3" });
  equal(shape(shown), ["message m1 complete", "message m2 complete"]);
});

test("older messages go before, and none comes twice", () => {
  const { shown, take } = conversation();
  take("message.completed", said("m3", { toolCalls: [{ callId: "c", name: "n", arguments: {} }] }));
  equal([shown.hasMore, shown.firstMessageId], [true, "m3"]);
  shown.prepend([said("m1").message, said("m2").message, said("m3").message], false);
  equal(
    [shape(shown), shown.hasMore, shown.firstMessageId],
    [
      ["message m1 complete", "message m2 complete", "message m3 complete", "tool c pending"],
      false,
      "m1",
    ],
  );
});
