// Uses the API from a page of another origin: follows a stream, produces with headers that need a preflight, and reads a
// header of an answer. Prints what each came to.
import { openPage } from "./chromium.mjs";

const [url, path, pageUrl] = process.argv.slice(2);
const page = await openPage(pageUrl);
await page.evaluate((records) => {
  const source = new EventSource(`${records}?after=earliest`);
  source.onmessage = (event) => window.report(`record ${event.lastEventId} ${event.data}`);
  source.onerror = () => window.report(source.readyState === EventSource.CLOSED ? "closed" : "reconnects");
  const headers = { "Content-Type": "application/json", "Idempotency-Key": "k", "Forebay-Header-Page": "yes" };
  fetch(records, { method: "POST", headers, body: "7" })
    .then((answer) => window.report(`produce ${answer.status}`), () => window.report("produce failed"))
    .then(() => fetch(records))
    .then((answer) => window.report(`next ${answer.headers.get("Forebay-Next")}`), () => window.report("next failed"));
}, `${url}${path}`);
