// Builds tracker/static/{stub,t.lite,t,t.full,t.sw}.js, and dist/, the package for bundlers. --check leaves tracker/static as
// it is and fails when that is not what the sources give. Both print the sizes, and fail above a budget or when something
// newer than the target is in what was built.
import { build, transform } from "esbuild";
import { minify } from "terser";
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const root = new URL("./", import.meta.url);
const out = new URL("../tracker/static/", import.meta.url);
const { version } = JSON.parse(readFileSync(new URL("package.json", root), "utf8"));
const check = process.argv.includes("--check");

// See docs/snippet.md, "Browsers": what runs in Chrome 64, Safari 12, Firefox 62. The stub runs wherever pages do.
const TARGET = "es2018";
const STUB_TARGET = "es2015";

/** The names of stub.ts in what is built. Of all that were tried these pack best, by 4 bytes against esbuild's own. */
const STUB_NAMES = {
  page: "t", calls: "o", proxy: "c", target: "e", path: "a", inner: "i", key: "n", args: "d", leave: "s", data: "n", call: "n", error: "d", fault: "d",
};

// Bytes after gzip -9; a KB of the budgets has 1,000.
const files = [
  { entry: "stub", name: "stub.js", budget: 350, target: STUB_TARGET },
  { entry: "entry/lite", name: "t.lite.js", budget: 2500 },
  { entry: "entry/core", name: "t.js", budget: 6000 },
  { entry: "entry/full", name: "t.full.js", budget: 9000 },
  { entry: "entry/sw", name: "t.sw.js", budget: 1000 },
].filter(({ entry }) => existsSync(new URL(`src/${entry}.ts`, root)));

const common = {
  bundle: true,
  minify: true,
  write: false,
  charset: "utf8",
  legalComments: "none",
  mangleProps: /_$/,
  // Without "use strict": nothing here depends on it.
  tsconfigRaw: { compilerOptions: { target: "ES2022", alwaysStrict: false } },
  outdir: new URL("dist/", root).pathname,
};

let failed = false;
const fail = (message) => {
  console.error(message);
  failed = true;
};

console.log("file            bytes   gzip -9   budget");
for (const { entry, name, budget, target = TARGET } of files) {
  const text = await (name === "stub.js" ? stub : script)(new URL(`src/${entry}.ts`, root).pathname, target);
  const size = gzipSync(text, { level: 9 }).length;
  const bytes = Buffer.byteLength(text);
  console.log(`${name.padEnd(12)} ${String(bytes).padStart(8)} ${String(size).padStart(9)} ${String(budget).padStart(8)}`);
  if (size > budget) fail(`${name} is over its budget`);
  if (process.argv.includes("--sri")) console.log(`  sha384-${createHash("sha384").update(text).digest("base64")}`);
  // Syntax that the target does not have would be written otherwise for it.
  const [asIs, lowered] = await Promise.all(["esnext", target].map((each) => transform(text, { target: each, charset: "utf8" })));
  if (asIs.code !== lowered.code) fail(`${name} has syntax that is newer than ${target}`);
  const path = new URL(name, out);
  if (!check) writeFileSync(path, text);
  else if (!existsSync(path) || readFileSync(path, "utf8") !== text) {
    fail(`tracker/static/${name} is not what sdk_js gives: npm run build`);
  }
}

await writePackage();

async function stub(path, target) {
  const { tsconfigRaw } = common;
  const minify = { minifySyntax: true, minifyWhitespace: true };
  const source = readFileSync(path, "utf8");
  const { code } = await transform(source, { loader: "ts", format: "esm", charset: "utf8", legalComments: "none", target, tsconfigRaw, ...minify });
  const names = RegExp(`(?<![\\w$]|[^.]\\.)(${Object.keys(STUB_NAMES).join("|")})(?![\\w$])`, "g");
  return code.trim().replace(names, (name) => STUB_NAMES[name]);
}

/** terser on top: 2 % less after gzip than by esbuild alone. */
async function script(path, target) {
  const define = { VERSION: JSON.stringify(version) };
  const bundled = await build({ ...common, format: "iife", entryPoints: [path], target, define });
  const options = { ecma: 2018, compress: { passes: 3, inline: 1 }, format: { preamble: "/* sdk_js, Apache-2.0 */" } };
  return (await minify(bundled.outputFiles[0].text, options)).code;
}

/** dist/: ESM for bundlers, types, and the scripts for who serves them himself. */
async function writePackage() {
  const dist = fileURLToPath(new URL("dist/", root));
  rmSync(dist, { recursive: true, force: true });
  await build({
    ...common,
    write: true,
    minify: false,
    minifySyntax: true,
    format: "esm",
    target: TARGET,
    entryPoints: [fileURLToPath(new URL("src/index.ts", root))],
    define: { VERSION: JSON.stringify(version) },
  });
  const tsc = spawnSync(process.execPath, [
    fileURLToPath(new URL("node_modules/typescript/bin/tsc", root)), "-p", fileURLToPath(new URL("tsconfig.types.json", root)),
  ], { stdio: "inherit" });
  if (tsc.status !== 0) fail("tsc failed");
  // The types of what nobody can import from the package.
  rmSync(`${dist}core`, { recursive: true, force: true });
  // Node's resolution wants the extension.
  for (const name of readdirSync(dist, { recursive: true }).filter((each) => each.endsWith(".d.ts"))) {
    const path = dist + name;
    writeFileSync(path, readFileSync(path, "utf8").replace(/((?:from|import\() ?"\.{1,2}\/[^"]+)"/g, '$1.js"'));
  }
  for (const { name } of files) copyFileSync(new URL(name, out), new URL(`dist/${name}`, root));
  copyFileSync(new URL("../LICENSE", root), new URL("LICENSE", root));
}

process.exitCode = failed ? 1 : 0;
