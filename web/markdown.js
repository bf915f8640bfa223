/**
 * Markdown to elements, by way of markdown-it's tokens and highlight.js' tree: no string is ever
 * parsed as HTML, so whatever a model writes can be nothing but text in the few elements below.
 */

import MarkdownIt from "./vendor/markdown-it.js";
import hljs from "./vendor/highlight.js";
import { copyButton, h } from "./dom.js";

/** What is larger is shown without colours: they would take longer than a frame. */
const MAX_HIGHLIGHTED = 40_000;
/** Deeper is shown as text; markdown-it's own limit is 100. */
const MAX_NESTING = 24;
/** The only links that a page of strangers' texts should have. */
const SAFE_LINK = /^(?:https?:\/\/|mailto:)/i;

const markdown = new /** @type {any} */ (MarkdownIt)("default", {
  html: false,
  linkify: true,
  maxNesting: MAX_NESTING,
});
markdown.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
// Else what it thinks no link is left as it is written; we leave out the target and keep the text.
markdown.validateLink = () => true;

/** Of block and inline tokens: what is not here is shown by its children alone. */
const ELEMENTS = new Set([
  "p",
  "h1",
  "h2",
  "h3",
  "h4",
  "h5",
  "h6",
  "ul",
  "ol",
  "li",
  "blockquote",
  "table",
  "thead",
  "tbody",
  "tr",
  "th",
  "td",
  "em",
  "strong",
  "s",
]);

/** A top level block: its source, to know it again, and its nodes. */
/** @typedef {{source: string, nodes: Node[]}} Block */

/** Shows one text, and follows it as it grows: only blocks that have changed are made anew. */
export class MarkdownView {
  constructor() {
    this.element = h("div.markdown");
    /** @type {Block[]} */
    this.blocks = [];
    this.text = "";
  }

  /** @param {string} text */
  update(text) {
    if (text === this.text) return;
    this.text = text;
    const env = {};
    const tokens = markdown.parse(text, env);
    const lines = text.split("\n");
    const definitions = JSON.stringify(env); // references that are defined later change what is before
    let index = 0;
    for (const group of topLevel(tokens)) {
      const map = group[0].map;
      const source = `${definitions}\n${group[0].type}\n${map ? lines.slice(map[0], map[1]).join("\n") : group[0].content}`;
      if (this.blocks[index]?.source !== source) this.replaceBlock(index, source, group);
      index++;
    }
    for (const block of this.blocks.splice(index))
      for (const node of block.nodes) node.parentNode?.removeChild(node);
  }

  /** @param {number} index @param {string} source @param {any[]} tokens */
  replaceBlock(index, source, tokens) {
    const nodes = render(tokens);
    const old = this.blocks[index];
    if (old) {
      const before = old.nodes[0];
      for (const node of nodes) this.element.insertBefore(node, before ?? null);
      for (const node of old.nodes) node.parentNode?.removeChild(node);
    } else {
      this.element.append(...nodes);
    }
    this.blocks[index] = { source, nodes };
  }
}

/** @param {any[]} tokens @returns {Generator<any[]>} Those of each block that is in no other. */
function* topLevel(tokens) {
  let group = [];
  let depth = 0;
  for (const token of tokens) {
    group.push(token);
    depth += token.nesting;
    if (depth === 0) {
      yield group;
      group = [];
    }
  }
  if (group.length) yield group;
}

/** @param {any[]} tokens @returns {Node[]} */
function render(tokens) {
  const root = document.createDocumentFragment();
  /** @type {(DocumentFragment | HTMLElement)[]} */
  const stack = [root];
  for (const token of tokens) {
    const parent = stack[stack.length - 1];
    if (token.nesting > 0) {
      const element = openElement(token, parent);
      stack.push(element);
    } else if (token.nesting < 0) {
      if (stack.length > 1) stack.pop();
    } else if (token.type === "inline") {
      parent.append(...render(token.children ?? []));
    } else {
      parent.append(...leaf(token));
    }
  }
  return [...root.childNodes];
}

/**
 * @param {any} token @param {DocumentFragment | HTMLElement} parent
 * @returns {DocumentFragment | HTMLElement} Where its children go.
 */
function openElement(token, parent) {
  if (token.hidden) return parent; // the paragraphs of a tight list
  if (token.type === "link_open") return parent.appendChild(link(token.attrGet("href")));
  if (!ELEMENTS.has(token.tag)) return parent;
  // The page has headings of its own above those of a message.
  const level = /^h([1-6])$/.exec(token.tag)?.[1];
  const element = document.createElement(level ? `h${Math.min(6, Number(level) + 2)}` : token.tag);
  if (level) element.className = `heading-${level}`;
  if (token.tag === "table") {
    // A wide table scrolls, and not the page.
    parent.append(h("div.table", { tabindex: 0, role: "group", "aria-label": "Table" }, element));
    return element;
  }
  if (token.tag === "ol" && token.attrGet("start") !== null) {
    element.setAttribute("start", String(Number.parseInt(token.attrGet("start"), 10) || 1));
  }
  if (token.tag === "th" || token.tag === "td") {
    const align = /^text-align:(left|center|right)$/.exec(token.attrGet("style") ?? "");
    if (align) element.className = `align-${align[1]}`;
  }
  return parent.appendChild(element);
}

/** @param {string} href */
function link(href) {
  if (!SAFE_LINK.test(href)) return h("span.no-link", { title: href });
  return h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow", title: href });
}

/** @param {any} token @returns {(Node | string)[]} */
function leaf(token) {
  switch (token.type) {
    case "text":
    case "text_special":
      return [token.content];
    case "code_inline":
      return [h("code", null, token.content)];
    case "fence":
    case "code_block":
      return [codeBlock(token.content, token.info.trim().split(/\s+/)[0])];
    case "softbreak":
      return ["\n"];
    case "hardbreak":
      return [h("br")];
    case "hr":
      return [h("hr")];
    case "image": {
      // Nothing is fetched for a text: a picture is a link to it.
      const label = token.content || token.attrGet("src");
      const element = link(token.attrGet("src"));
      element.classList.add("picture");
      element.append(label);
      return [element];
    }
    default:
      return token.content ? [token.content] : [];
  }
}

/** @param {string} source @param {string} language As the text names it. */
export function codeBlock(source, language) {
  const code = source.replace(/\n$/, "");
  return h(
    "div.code",
    null,
    h(
      "div.code-bar",
      null,
      h("span", null, language || "text"),
      copyButton(() => code, "Copy the code"),
    ),
    h("pre", { tabindex: 0 }, h("code", null, ...highlight(code, language))),
  );
}

/** @param {string} code @param {string} language @returns {(Node | string)[]} */
function highlight(code, language) {
  if (code.length > MAX_HIGHLIGHTED || !language || !hljs.getLanguage(language)) return [code];
  try {
    return hljs.highlight(code, { language, ignoreIllegals: true })._emitter.nodes();
  } catch {
    return [code];
  }
}

/** What highlight.js tells what it found; its own makes a string of HTML (as `lowlight` does it). */
class ElementEmitter {
  constructor() {
    this.root = document.createDocumentFragment();
    /** @type {(DocumentFragment | HTMLElement)[]} */
    this.stack = [this.root];
  }
  get top() {
    return this.stack[this.stack.length - 1];
  }
  /** @param {string} text */
  addText(text) {
    if (text) this.top.append(text);
  }
  /** @param {string} scope */
  openNode(scope) {
    const classes = scope.split(".").map((part, index) => (index ? `${part}_` : `hljs-${part}`));
    const element = document.createElement("span");
    element.className = classes.join(" ");
    this.stack.push(this.top.appendChild(element));
  }
  closeNode() {
    if (this.stack.length > 1) this.stack.pop();
  }
  /** @param {string} scope */
  startScope(scope) {
    this.openNode(scope);
  }
  endScope() {
    this.closeNode();
  }
  /** @param {ElementEmitter} other @param {string} name Another language inside of this one. */
  __addSublanguage(other, name) {
    const element = document.createElement("span");
    if (name) element.className = `language-${name}`;
    element.append(...other.nodes());
    this.top.append(element);
  }
  closeAllNodes() {
    this.stack.length = 1;
  }
  finalize() {
    this.closeAllNodes();
  }
  toHTML() {
    return ""; // asked for by the library, and thrown away
  }
  nodes() {
    return [...this.root.childNodes];
  }
}

hljs.configure({ __emitter: ElementEmitter });
