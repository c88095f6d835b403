// Markdown of answers as nodes. Nothing in it can run, load or look like a part of this page.

import DOMPurify from "../vendor/dompurify/purify.es.mjs";
import { marked } from "../vendor/marked/marked.esm.js";

const FORBIDDEN = ["style", "img", "video", "audio", "form", "input", "button", "iframe", "svg", "math"];

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

marked.use({
  gfm: true,
  breaks: true,
  renderer: {
    // HTML in an answer is shown, not rendered: it is most likely an example.
    html: ({ text }) => escaped(text),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
  tokenizer: {
    // \( and \[ begin a formula: it is not drawn here, and stays as it was written.
    escape: (source) => {
      const formula = /^\\[()[\]]/.exec(source);
      return formula ? { type: "text", raw: formula[0], text: formula[0] } : false;
    },
  },
});

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
});

export function rendered(markdown) {
  return DOMPurify.sanitize(marked.parse(markdown), {
    RETURN_DOM_FRAGMENT: true,
    RETURN_TRUSTED_TYPE: true,
    FORBID_TAGS: FORBIDDEN,
    FORBID_ATTR: ["style", "class", "id", "name"],
  });
}
