/** The sessions that there are, and what can be done with each as a whole. */

import { askName, confirm, openMenu } from "./dialogs.js";
import { announce, shorten } from "./dom.js";
import { nameOf } from "./sidebar.js";

/** Sessions that are asked for at a time. */
const PAGE = 50;
/** Nobody tells us of other clients' sessions: they are asked for. */
const REFRESH_MS = 15_000;
/** Of a session's name, made of what was said first. */
const MAX_NAME = 60;

export class Sessions {
  /**
   * @param {import("./trialogue.js").Client} client
   * @param {{onChange: () => void, onOpen: (sessionId: string) => void,
   *   onGone: (sessionId: string) => void, onError: (text: string) => void}} actions
   */
  constructor(client, actions) {
    this.client = client;
    this.actions = actions;
    /** @type {Map<string, any>} */
    this.byId = new Map();
    /** There are more than were asked for. */
    this.hasMore = false;
    /** @type {string | undefined} */
    this.cursor = undefined;
    this.pages = 0;
    this.otherTabs = new BroadcastChannel("trialogue");
    this.otherTabs.addEventListener("message", () => this.refresh());
    setInterval(() => !document.hidden && this.refresh(), REFRESH_MS);
  }

  /** Newest activity first, without those that agents made for agents. */
  get sorted() {
    const shown = [...this.byId.values()].filter((session) => !session.parent);
    return shown.sort((a, b) => b.lastActivityAt.localeCompare(a.lastActivityAt));
  }

  /** Forget all: they were somebody else's. */
  clear() {
    this.byId.clear();
    this.pages = 0;
    this.hasMore = false;
    this.actions.onChange();
  }

  /** Keep what was told of a session. @param {any} session */
  keep(session) {
    this.byId.set(session.id, session);
    this.actions.onChange();
  }

  /** @param {string} sessionId */
  forget(sessionId) {
    if (this.byId.delete(sessionId)) this.actions.onChange();
  }

  /** Ask for the newest ones again. What came by `more` stays. */
  async refresh() {
    const answer = await this.#list({});
    if (!answer) return;
    const oldest = answer.sessions.at(-1)?.lastActivityAt ?? "";
    for (const [id, session] of this.byId) {
      if (!answer.nextCursor || session.lastActivityAt >= oldest) this.byId.delete(id);
    }
    this.#take(answer, this.pages <= 1);
    this.pages ||= 1;
  }

  /** Ask for the next page. @returns {Promise<boolean>} Whether one came. */
  async more() {
    const answer = await this.#list({ cursor: this.cursor });
    if (!answer) return false;
    this.pages++;
    this.#take(answer, true);
    return true;
  }

  /** @param {object} params */
  async #list(params) {
    if (this.client.state !== "connected") return null;
    try {
      return await this.client.call("session.list", { limit: PAGE, ...params });
    } catch {
      return null; // the next time
    }
  }

  /** @param {any} answer @param {boolean} isLast Nothing is known of what comes behind it. */
  #take(answer, isLast) {
    for (const session of answer.sessions) this.byId.set(session.id, session);
    if (isLast) {
      this.cursor = answer.nextCursor;
      this.hasMore = answer.nextCursor !== undefined;
    }
    this.actions.onChange();
  }

  /** Something has changed that other tabs of ours show, too. */
  tellOthers() {
    this.otherTabs.postMessage("sessions");
    this.refresh();
  }

  // -- commands -----------------------------------------------------------------------------

  /**
   * Carry out a request, and say it if it fails.
   * @param {string} method @param {object} params
   */
  async call(method, params) {
    try {
      return await this.client.call(method, params);
    } catch (error) {
      this.actions.onError(/** @type {Error} */ (error).message);
      throw error;
    }
  }

  /** @param {any} session @param {HTMLElement} button */
  openMenu(session, button) {
    const isOver = session.status === "closed" || session.status === "expired";
    /** What failed was said by `call`. @param {() => Promise<any>} run */
    const quietly = (run) => () => run().catch(() => {});
    openMenu(button, [
      ...(isOver ? [] : [{ label: "Rename …", run: quietly(() => this.rename(session)) }]),
      { label: "Fork", run: quietly(() => this.fork(session)) },
      ...(isOver ? [] : [{ label: "Close …", run: quietly(() => this.close(session)) }]),
      { label: "Delete …", isDanger: true, run: quietly(() => this.remove(session)) },
    ]);
  }

  /** @param {string} text What is said first. @param {string} agent Empty for the server's own. */
  async create(text, agent) {
    const config = agent ? { config: { agent } } : {};
    const session = await this.call("session.create", { name: shorten(text, MAX_NAME), ...config });
    this.keep(session);
    return session;
  }

  /** @param {any} session */
  async rename(session) {
    const name = await askName(session.name ?? "");
    if (name === null) return;
    const params = { sessionId: session.id, name: name.toWellFormed() };
    this.keep(await this.call("session.update", params));
    this.tellOthers();
  }

  /** @param {any} session */
  async close(session) {
    const text =
      "What runs is stopped, and nobody can write in it any more. It can still be read and forked.";
    if (!(await confirm(`Close “${nameOf(session)}”?`, text, "Close"))) return;
    this.keep(await this.call("session.close", { sessionId: session.id }));
    this.tellOthers();
  }

  /** @param {any} session */
  async remove(session) {
    const text = "All that was said in it will be gone.";
    if (!(await confirm(`Delete “${nameOf(session)}”?`, text, "Delete"))) return;
    await this.call("session.delete", { sessionId: session.id });
    this.forget(session.id);
    this.actions.onGone(session.id);
    this.tellOthers();
  }

  /** @param {any} session @param {string} [atMessageId] The last message of the new one. */
  async fork(session, atMessageId) {
    const params = { sessionId: session.id, ...(atMessageId ? { atMessageId } : {}) };
    const fork = await this.call("session.fork", params);
    this.keep(fork);
    this.actions.onOpen(fork.id);
    announce("This is another session now, with what was said up to there");
    if (session.name) {
      const name = shorten(`${session.name} (fork)`, MAX_NAME);
      this.keep(await this.call("session.update", { sessionId: fork.id, name }));
    }
    this.tellOthers();
  }
}
