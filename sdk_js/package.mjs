// Checks dist/ as `npm pack` would ship it: nothing but what is listed here, and what publint and attw have to say about how
// bundlers and TypeScript find their way in it. The scripts for pages (t.js, ...) have no types: nobody imports them.
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { spawnSync } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("./", import.meta.url));
const manifest = JSON.parse(readFileSync(`${root}package.json`, "utf8"));
const SHIPPED = /^(package\.json|README\.md|LICENSE|dist\/((index|types|contract\.gen|extras\/\w+)\.d\.ts|index\.js|stub\.js|t(\.\w+)?\.js))$/;

const fail = (message) => {
  console.error(message);
  process.exitCode = 1;
};
const run = (command, args) => spawnSync(command, args, { cwd: root, encoding: "utf8" });

const packed = run("npm", ["pack", "--json", "--ignore-scripts"]);
if (packed.status !== 0) throw new Error(packed.stderr);
const [{ filename, files, size }] = JSON.parse(packed.stdout);
try {
  for (const { path } of files) if (!SHIPPED.test(path)) fail(`${path} does not belong in the package`);
  if (!files.some(({ path }) => path === "LICENSE")) fail("the license is missing");
  const { messages } = await publint({ pack: { tarball: new Uint8Array(readFileSync(root + filename)).buffer }, strict: true });
  for (const message of messages) fail(`publint: ${formatMessage(message, manifest)}`);
  const scripts = Object.keys(manifest.exports).filter((name) => name.endsWith(".js"));
  const attw = run(process.execPath, [
    "node_modules/@arethetypeswrong/cli/dist/index.js", filename, "--profile", "esm-only", "--format", "ascii", "--exclude-entrypoints", ...scripts,
  ]);
  if (attw.status !== 0) fail(attw.stdout + attw.stderr);
} finally {
  rmSync(root + filename);
}
console.log(`package: ${files.length} files, ${size} bytes; publint and attw ${process.exitCode ? "complain" : "find nothing wrong"}`);
