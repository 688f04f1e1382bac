// Follows a stream with the EventSource of a real browser, on a page of the server itself (same origin).
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const [url, path] = process.argv.slice(2);
const candidates = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const browser = await chromium.launch({
  executablePath: candidates.find((candidate) => candidate && existsSync(candidate)),
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ],
});

process.stdin.resume();
process.stdin.on("end", async () => {
  await browser.close();
  process.exit(0);
});

const page = await browser.newPage();
await page.goto(`${url}/livez`);
await page.exposeFunction("report", (line) => console.log(line));
await page.evaluate((path) => {
  const source = new EventSource(path);
  source.addEventListener("open", (event) => event instanceof MessageEvent && window.report("open"));
  source.onmessage = (event) => window.report(`record ${event.lastEventId} ${event.data}`);
}, path);
