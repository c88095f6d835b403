// Text files that are pasted or dropped become a part of the message.

const LONGEST_BYTES = 1_000_000;

/** A file as text in a fence that nothing in it closes. Throws an Error, for people. */
export async function quoted(file) {
  if (file.size > LONGEST_BYTES) throw new Error(`${file.name} is larger than 1 MB: no context has room for it.`);
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    text = "\0";
  }
  if (text.includes("\0")) throw new Error(`${file.name} is no text, and this model reads nothing else.`);
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length));
  const fence = "`".repeat(longest + 1);
  return `${file.name}:\n${fence}\n${text.trimEnd()}\n${fence}\n`;
}
