// Starts the real browser; it ends with the standard input of the program that started it.
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const candidates = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

export async function openPage(url) {
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
  await page.goto(url);
  await page.exposeFunction("report", (line) => console.log(line));
  return page;
}
