// One streamed request to the API, and the ways in which it can fail.

/** The server said no, or could not go on: `message` is its own. Other fields are undefined where it said nothing. */
export class Refused extends Error {
  constructor(message, { status, code, retryAfterS } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

/** Nothing answers at the other end. */
export class Unreachable extends Error {}

/** The stream ended before its end. */
export class BrokeOff extends Error {}

/** The server's events, one `data:` payload at a time, however the bytes were cut. */
async function* payloads(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) if (frame.startsWith("data: ")) yield frame.slice(6);
  }
}

async function refusal(response) {
  const wait = Number(response.headers.get("Retry-After") ?? NaN);
  const about = { status: response.status, retryAfterS: Number.isFinite(wait) ? wait : undefined };
  const said = await response.json().catch(() => null);
  const message = said?.error?.message ?? `The server answered ${response.status}.`;
  return new Refused(message, { ...about, code: said?.error?.code });
}

/** The chunks of an answer up to its end. Throws Refused, Unreachable, BrokeOff; an AbortError where it is stopped. */
export async function* answerTo(request, key, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const body = JSON.stringify(request);
  let response;
  try {
    response = await fetch("v1/chat/completions", { method: "POST", headers, body, signal });
  } catch (error) {
    throw signal.aborted ? error : new Unreachable("The server cannot be reached.");
  }
  if (!response.ok) throw await refusal(response);
  try {
    for await (const payload of payloads(response.body)) {
      if (payload === "[DONE]") return;
      const chunk = JSON.parse(payload);
      if (chunk.error) throw new Refused(chunk.error.message, { code: chunk.error.code });
      yield chunk;
    }
  } catch (error) {
    if (signal.aborted || error instanceof Refused) throw error;
  }
  throw new BrokeOff("The answer broke off: the connection was lost before its end.");
}
