/* /t.js */
import { boot } from "../core/boot";
import * as debug from "../extras/debug";

boot([debug.start]);
