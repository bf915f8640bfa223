/** The agent's questions, answered in place (§9). */

import { codeBlock } from "./markdown.js";
import { h, icon, shorten, writeValue } from "./dom.js";

/** What may be asked for in a form; anything else is written as JSON. */
const FIELDS = new Set(["string", "number", "integer", "boolean"]);
let lastId = 0;

/**
 * Make the card of a question.
 * @param {any} ask
 * @param {(answer: any) => Promise<void>} answer Rejects with what is wrong.
 */
export function askCard(ask, answer) {
  const id = `ask-${++lastId}`;
  const problem = h("p.problem", { id: `${id}-problem`, role: "alert" });
  const form = h("form.ask-form", { novalidate: true });
  const card = h(
    "section.ask",
    { "aria-labelledby": `${id}-title` },
    h("h3.ask-title", { id: `${id}-title` }, icon("ask"), ask.title),
    ask.detail ? h("p.ask-detail", null, ask.detail) : null,
    ask.name ? callOf(ask) : null,
    form,
    problem,
    deadline(ask),
  );

  const read =
    ask.kind === "tool"
      ? toolNotice(form)
      : ask.options
        ? optionButtons(form, ask, submit)
        : fields(form, ask, id);

  /** @param {any} value */
  async function submit(value) {
    problem.textContent = "";
    for (const element of form.elements) element.disabled = true;
    try {
      await answer(value);
    } catch (error) {
      const issues = /** @type {any} */ (error).data?.issues;
      problem.textContent =
        Array.isArray(issues) && issues.length
          ? issues
              .map(
                (issue) =>
                  `${String(issue.path).replace(/^params\.answer\.?/, "") || "The answer"}: ${issue.message}`,
              )
              .join("; ")
          : /** @type {Error} */ (error).message;
      for (const element of form.elements) element.disabled = false;
      form.querySelector("input, textarea, select, button")?.focus();
    }
  }

  form.addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    if (!read) return;
    try {
      submit(read());
    } catch (error) {
      problem.textContent = /** @type {Error} */ (error).message;
    }
  });
  return card;
}

/** What became of a question, in a line. @param {any} item */
export function askLine(item) {
  const answer =
    item.error !== undefined && item.error !== null
      ? item.error
      : item.answer === undefined || item.answer === null
        ? ""
        : writeValue(item.answer);
  const by = item.by && item.by !== "anonymous" ? ` · ${item.by}` : "";
  const said =
    item.state === "cancelled"
      ? "not asked any more"
      : item.state === "expired"
        ? `nobody answered in time${answer ? `: ${answer}` : ""}`
        : `${answer || "answered"}${by}`;
  return h(
    "section.ask.ask-closed",
    { "aria-label": `Question: ${item.ask.title}` },
    h("span.ask-title", null, icon("ask"), item.ask.title),
    h("span.ask-answer", null, shorten(said, 400)),
  );
}

/** @param {any} ask */
function callOf(ask) {
  const text = writeValue(ask.arguments ?? {}, 2);
  return h(
    "div.ask-call",
    null,
    h("p", null, icon("tool"), h("code", null, ask.name)),
    text === "{}" ? null : codeBlock(text, "json"),
  );
}

/** @param {HTMLFormElement} form */
function toolNotice(form) {
  form.append(
    h("p.muted", null, "A program that offers this tool has to run it; it waits for one."),
  );
  return null;
}

/** @param {HTMLFormElement} form @param {any} ask @param {(value: any) => void} submit */
function optionButtons(form, ask, submit) {
  form.append(
    h(
      "div.ask-options",
      { role: "group", "aria-label": "Answers" },
      ...ask.options.map((/** @type {string} */ option, /** @type {number} */ index) =>
        h(
          index === 0 ? "button.primary" : "button",
          { type: "button", click: () => submit(option) },
          option,
        ),
      ),
    ),
  );
  return null;
}

/**
 * @param {HTMLFormElement} form @param {any} ask @param {string} id
 * @returns {() => any} Reads what was put in.
 */
function fields(form, ask, id) {
  const schema = ask.schema;
  const properties = schema?.type === "object" ? Object.entries(schema.properties ?? {}) : [];
  /** @type {() => any} */
  let read;
  if (!schema) {
    read = addField(form, { type: "string" }, `${id}-answer`, "Your answer", true);
  } else if (isSimple(schema)) {
    read = addField(form, schema, `${id}-answer`, schema.title ?? "Your answer", true);
  } else if (properties.length > 0 && properties.every(([, property]) => isSimple(property))) {
    const required = new Set(schema.required ?? []);
    const readers = properties.map(
      ([name, property], index) =>
        /** @type {[string, () => any]} */ ([
          name,
          addField(form, property, `${id}-${index}`, property.title ?? name, required.has(name)),
        ]),
    );
    read = () =>
      Object.fromEntries(
        readers.map(([name, one]) => [name, one()]).filter(([, value]) => value !== undefined),
      );
  } else {
    read = addJson(form, schema, `${id}-answer`);
  }
  const buttons = h("div.ask-options", null, h("button.primary", { type: "submit" }, "Answer"));
  form.append(buttons);
  return read;
}

/** @param {any} schema */
function isSimple(schema) {
  if (typeof schema !== "object" || schema === null) return false;
  return Array.isArray(schema.enum) || FIELDS.has(schema.type);
}

/** @param {HTMLElement} form @param {any} schema @param {string} id @param {string} label @param {boolean} isRequired */
function addField(form, schema, id, label, isRequired) {
  const describedBy = schema.description ? `${id}-help` : null;
  const help = schema.description ? h("span.help", { id: describedBy }, schema.description) : null;
  const common = { id, "aria-describedby": describedBy, required: isRequired };
  /** @param {any} control */
  const add = (control) =>
    form.append(
      h(
        "p.field",
        null,
        h("label", { for: id }, label, isRequired ? null : h("span.muted", null, " (optional)")),
        control,
        help,
      ),
    );
  if (Array.isArray(schema.enum)) {
    const select = h(
      "select",
      common,
      isRequired ? null : h("option", { value: "" }, "—"),
      ...schema.enum.map((/** @type {any} */ value, /** @type {number} */ index) =>
        h("option", { value: index }, writeValue(value)),
      ),
    );
    add(select);
    return () => (select.value === "" ? undefined : schema.enum[Number(select.value)]);
  }
  if (schema.type === "boolean") {
    const box = h("input", { ...common, type: "checkbox", required: false });
    form.append(h("p.field.check", null, box, h("label", { for: id }, label), help));
    if (schema.default === true) box.checked = true;
    return () => box.checked;
  }
  if (schema.type === "number" || schema.type === "integer") {
    const input = h("input", {
      ...common,
      type: "text",
      inputmode: "decimal",
      autocomplete: "off",
      value: schema.default,
    });
    add(input);
    return () => {
      const typed = input.value.trim();
      if (!typed && !isRequired) return undefined;
      const number = Number(typed);
      if (!typed || !Number.isFinite(number)) {
        input.focus();
        throw new Error(`${label}: this should be a number`);
      }
      return number;
    };
  }
  const area = h("textarea", { ...common, rows: 1, autocomplete: "off" });
  area.value = typeof schema.default === "string" ? schema.default : "";
  area.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      area.form.requestSubmit();
    }
  });
  add(area);
  return () => (area.value === "" && !isRequired ? undefined : area.value.toWellFormed());
}

/** @param {HTMLElement} form @param {any} schema @param {string} id */
function addJson(form, schema, id) {
  const area = h("textarea.mono", {
    id,
    rows: 4,
    spellcheck: "false",
    "aria-describedby": `${id}-help`,
  });
  form.append(
    h("p.field", null, h("label", { for: id }, "Your answer, as JSON"), area),
    h(
      "details.help",
      { id: `${id}-help` },
      h("summary", null, "What fits"),
      codeBlock(writeValue(schema, 2), "json"),
    ),
  );
  return () => {
    try {
      return JSON.parse(area.value);
    } catch (error) {
      area.focus();
      throw new Error(`This is no JSON: ${/** @type {Error} */ (error).message}`);
    }
  };
}

/** @param {any} ask */
function deadline(ask) {
  if (!ask.expiresAt) return null;
  const fallback =
    ask.default === undefined || ask.default === null
      ? ""
      : `, then it is “${shorten(writeValue(ask.default), 60)}”`;
  const time = new Date(ask.expiresAt).toLocaleTimeString([], {
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
  });
  return h("p.muted", null, `Until ${time}${fallback}`);
}
