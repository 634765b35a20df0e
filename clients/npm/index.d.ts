export interface Grant {
  /** POLICY/GRANT */
  name: string;
  /** Like 10m; never exceeds the policy's. */
  ttl?: string;
  /** A PKCS#10 request in PEM. */
  csr?: string;
  /** An OpenSSH public key. */
  public_key?: string;
}

export interface Credential {
  grant: string;
  lease_id: string;
  issuer: string;
  kind: string;
  revocation: 'immediate' | 'introspection' | 'expiry';
  expires_at: string;
  renewable: boolean;
  values: Record<string, string>;
  /** Names in values that must not be shown. */
  secret: string[];
  env: Record<string, string>;
}

export interface Exchanged {
  session: {
    id: string;
    token: string;
    /** Gives back what the session token obtained, and is good for nothing else; older brokers give none. */
    revocation_token?: string;
    expires_at: string;
  };
  credentials: Credential[];
  redaction: {patterns: string[]};
}

export interface Revoked {
  state: 'revoked' | 'revoking' | 'expired';
  valid_elsewhere_until?: string;
}

export interface Config {
  /** Of the broker; plain http on loopback alone. */
  url: string;
  /** PEM of certificates that are trusted besides the usual ones. */
  ca?: string;
  /** Of a call with all its tries, in milliseconds; 120,000 when absent. */
  timeout?: number;
  userAgent?: string;
  /** Where proxies are read from; process.env when absent. */
  env?: Record<string, string | undefined>;
}

/** A broker. It keeps no token, and no error of it ever holds one. */
export class Client {
  constructor(config: Config);
  /** Gives a job token (or a session token) for credentials. All or nothing. */
  exchange(token: string, grants: (string | Grant)[]): Promise<Exchanged>;
  /** What a session token holds. */
  session(token: string): Promise<{session: {id: string; expires_at: string}; leases: object[]}>;
  /** Gives back all that was obtained with a session token: takes it, or its revocation token. */
  revokeSession(token: string, reason?: string): Promise<Revoked>;
  /** Gives a lease a later end, within the policy's max_ttl. */
  renew(token: string, lease: string, ttl?: string): Promise<object>;
  /** Takes one lease back. */
  revoke(token: string, lease: string, reason?: string): Promise<Revoked>;
}

/** A refusal by the broker (RFC 9457), or an answer that can't be its own: code `unexpected_answer`. */
export class Problem extends Error {
  status: number;
  code: string;
  detail: string;
  requestId: string;
  reason: string;
  claims: string[];
  grant: string;
  /** Whether the broker said no to this job, as opposed to being unable to answer. */
  get denied(): boolean;
}

/** The ID token of a GitHub Actions job. */
export function githubToken(audience: string, env?: Record<string, string | undefined>): Promise<string>;

/** The forms in which a secret turns up in logs, longest first. */
export function forms(value: string): string[];

export const MIN_MASKED: number;
export const MAX_TRIES: number;
export const MAX_RETRY_AFTER: number;
export const MAX_TOKEN: number;
