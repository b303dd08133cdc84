/* /t.js */
import { boot } from "../core/boot";
import { start as debug } from "../extras/debug";

boot([debug]);
