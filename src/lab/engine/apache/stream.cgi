#!/usr/bin/perl
# Apache runs this script once for each client, in a process of its own. The script subscribes to the
# hub, as a PHP page subscribes to Redis, and prints each event when it arrives.
use strict;
use warnings;
use IO::Socket::INET;

my $hub = IO::Socket::INET->new($ENV{HUB}) or die "no hub at $ENV{HUB}: $@";
print $hub "GET $ENV{CHANNEL} HTTP/1.0\r\nHost: $ENV{HUB}\r\n\r\n";

$| = 1;    # write without buffering
print "Content-Type: text/event-stream\r\nCache-Control: no-cache\r\n\r\n";
{ local $/ = "\r\n\r\n"; <$hub>; }    # the hub's response head
$/ = "\n\n";                          # an event ends with a blank line
print while <$hub>;
