// One request by one client: node clients.mjs CLIENT BASE KEY TALE [leave]
// Prints what the client made of the answer, as JSON. With "leave" it goes away at the first text.

import Anthropic from "@anthropic-ai/sdk";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { jsonSchema, streamText, tool } from "ai";
import OpenAI from "openai";

const [client, base, key, tale, leave] = process.argv.slice(2);
const WEATHER = { type: "object", properties: { city: { type: "string" }, days: { type: "integer" } } };
globalThis.AI_SDK_LOG_WARNINGS = false;
const told = { text: "", reasoning: "", calls: [], end: null, error: null };
const abort = new AbortController();

function said(text) {
  told.text += text;
  if (leave && text) abort.abort();
}

async function openaiChat() {
  const openai = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: 0 });
  const messages = [{ role: "user", content: tale }];
  const tools = [{ type: "function", function: { name: "get_weather", parameters: WEATHER } }];
  const stream = openai.chat.completions.stream({ model: "any", messages, tools }, { signal: abort.signal });
  for await (const chunk of stream) {
    said(chunk.choices[0]?.delta.content ?? "");
    told.reasoning += chunk.choices[0]?.delta.reasoning_content ?? "";
  }
  const [choice] = (await stream.finalChatCompletion()).choices;
  for (const call of choice.message.tool_calls ?? []) {
    told.calls.push([call.function.name, JSON.parse(call.function.arguments)]);
  }
  told.end = choice.finish_reason;
}

async function openaiResponses() {
  const openai = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: 0 });
  const tools = [{ type: "function", name: "get_weather", parameters: WEATHER, strict: false }];
  const stream = openai.responses.stream({ model: "any", input: tale, tools }, { signal: abort.signal });
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") said(event.delta);
    if (event.type === "response.reasoning_text.delta") told.reasoning += event.delta;
    if (event.type === "response.failed") throw new Error(event.response.error.message);
  }
  const response = await stream.finalResponse();
  for (const item of response.output) {
    if (item.type === "function_call") told.calls.push([item.name, JSON.parse(item.arguments)]);
  }
  told.end = response.status;
}

async function anthropicMessages() {
  const anthropic = new Anthropic({ baseURL: base, apiKey: key, maxRetries: 0 });
  const stream = anthropic.messages.stream(
    {
      model: "any",
      max_tokens: 500,
      messages: [{ role: "user", content: tale }],
      tools: [{ name: "get_weather", input_schema: WEATHER }],
    },
    { signal: abort.signal },
  );
  stream.on("text", said);
  stream.on("thinking", (delta) => (told.reasoning += delta));
  const message = await stream.finalMessage();
  for (const block of message.content) {
    if (block.type === "tool_use") told.calls.push([block.name, block.input]);
  }
  told.end = message.stop_reason;
}

async function vercel(model, tools) {
  const result = streamText({
    model,
    prompt: tale,
    tools,
    maxRetries: 0,
    maxOutputTokens: 500,
    providerOptions: { openai: { reasoningSummary: "auto", forceReasoning: true } },
    abortSignal: abort.signal,
    onError: () => {},
  });
  for await (const part of result.fullStream) {
    if (part.type === "text-delta") said(part.text);
    if (part.type === "reasoning-delta") told.reasoning += part.text;
    if (part.type === "tool-call") told.calls.push([part.toolName, part.input]);
    if (part.type === "error") throw part.error;
    if (part.type === "finish") told.end = part.finishReason;
  }
}

const weather = { get_weather: tool({ inputSchema: jsonSchema(WEATHER) }) };
const compatible = { name: "corral", baseURL: `${base}/v1`, apiKey: key };
const CLIENTS = {
  "openai chat": openaiChat,
  "openai responses": openaiResponses,
  "anthropic messages": anthropicMessages,
  "vercel chat": () => vercel(createOpenAICompatible(compatible)("any"), weather),
  "vercel responses": () => vercel(createOpenAI({ baseURL: `${base}/v1`, apiKey: key }).responses("any"), weather),
  "vercel messages": () => vercel(createAnthropic({ baseURL: `${base}/v1`, apiKey: key })("any"), weather),
};

try {
  await CLIENTS[client]();
} catch (error) {
  told.error = String(error.message ?? error.error?.message ?? JSON.stringify(error));
}
console.log(JSON.stringify(told));
process.exit(0);
