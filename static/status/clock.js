// The page's clock. It stands while the server is not heard of: what was true then is not shown as going on.

let frozenAt = null;

/** Milliseconds, monotonic. */
export const now = () => frozenAt ?? performance.now();

export function freeze(at) {
  frozenAt ??= at;
}

export function thaw() {
  frozenAt = null;
}
