// Follows a stream with the EventSource of a real browser, on a page of the server itself (same origin).
import { openPage } from "./chromium.mjs";

const [url, path] = process.argv.slice(2);
const page = await openPage(`${url}/livez`);
await page.evaluate((path) => {
  const source = new EventSource(path);
  source.addEventListener("open", (event) => event instanceof MessageEvent && window.report("open"));
  source.onmessage = (event) => window.report(`record ${event.lastEventId} ${event.data}`);
}, path);
