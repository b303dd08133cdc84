/** The package's version. Set by build.mjs. */
declare const VERSION: string;
