/** The files that go with the next message: chosen, dropped or pasted, and shown until it is sent. */

import { byId, h, iconButton } from "./dom.js";

/** Of a frame, for what is around the files. */
const ROOM_BYTES = 4096;

/** @typedef {{name: string, mediaType: string, data?: string, uri?: string}} Attachment */

export class Files {
  /**
   * @param {{onChange: () => void, onProblem: (text: string) => void, maxBytes: () => number}} actions
   */
  constructor(actions) {
    this.actions = actions;
    /** @type {Attachment[]} */
    this.items = [];
    this.list = byId("attached");
    /** @type {HTMLInputElement} */
    const chooser = byId("files");
    this.button = byId("attach");
    this.button.addEventListener("click", () => chooser.click());
    chooser.addEventListener("change", () => {
      this.add([...(chooser.files ?? [])]);
      chooser.value = ""; // or the same one could not be chosen again
    });
    byId("message").addEventListener("paste", (/** @type {ClipboardEvent} */ event) => {
      const { files, types } = event.clipboardData ?? { files: [], types: [] };
      // A word processor puts a picture of the text beside it.
      if (!files.length || types.includes("text/plain")) return;
      event.preventDefault();
      this.add([...files]);
    });
    // Anywhere: a browser would open what is dropped, and leave the page.
    for (const type of ["dragover", "drop"]) {
      addEventListener(type, (event) => {
        const { dataTransfer } = /** @type {DragEvent} */ (event);
        if (!dataTransfer?.types.includes("Files")) return;
        event.preventDefault();
        if (type === "drop" && this.button.checkVisibility()) this.add([...dataTransfer.files]);
      });
    }
  }

  /** @param {File[]} files */
  async add(files) {
    for (const file of files) {
      const used = this.items.reduce((sum, item) => sum + (item.data?.length ?? 0), ROOM_BYTES);
      if (used + Math.ceil(file.size / 3) * 4 > this.actions.maxBytes()) {
        const most = Math.floor((this.actions.maxBytes() / 4) * 3).toLocaleString();
        this.actions.onProblem(`“${file.name}” is too large: a message takes ${most} bytes`);
        continue;
      }
      try {
        this.items.push({
          name: file.name.toWellFormed(),
          mediaType: file.type || "application/octet-stream",
          data: await readFile(file),
        });
      } catch {
        this.actions.onProblem(`“${file.name}” cannot be read`); // a folder, say
      }
      this.show();
    }
  }

  /** @param {Attachment[]} items */
  put(items) {
    this.items = [...items];
    this.show();
  }

  show() {
    this.list.hidden = this.items.length === 0;
    this.list.replaceChildren(
      ...this.items.map((item) =>
        h(
          "li",
          null,
          h("span", null, item.name),
          iconButton("close", `Take “${item.name}” away`, () => {
            this.put(this.items.filter((other) => other !== item));
            byId("message").focus();
          }),
        ),
      ),
    );
    this.actions.onChange();
  }
}

/** @param {File} file @returns {Promise<string>} Its bytes, as base64. */
function readFile(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).replace(/^[^,]*,?/, ""));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
